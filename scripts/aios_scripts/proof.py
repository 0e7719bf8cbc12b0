"""What scripts that prove aios against PyTorch share: running it, the same windows of a text, and the record of a proof."""
import json
import platform
import subprocess
import sys
from pathlib import Path


def aios(binary, *arguments):
    """What it writes on standard output and standard error; ends the script if it fails."""
    command = [str(binary), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout, done.stderr


def losses_of(log):
    """Those of the steps in a metrics file."""
    events = [json.loads(line) for line in log.read_text().splitlines()]
    return [event["loss"] for event in events if event["event"] == "step"]


def windows(tokenizer, text, seq):
    """Windows of so many tokens, each with the one after it; the last, shorter one is left out."""
    ids = tokenizer(text, add_special_tokens=False).input_ids
    return [ids[i : i + seq + 1] for i in range(0, len(ids) - seq, seq)]


def cross_entropy(model, row):
    """Mean of a window's tokens."""
    import torch

    x = torch.tensor([row])
    logits = model(input_ids=x[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), x[:, 1:].flatten())


def loss_of(model, rows):
    """The same of windows of one length."""
    import torch

    with torch.no_grad():
        return sum(float(cross_entropy(model, row)) for row in rows) / len(rows)


def trained(model, rows, rate):
    """Losses of one step of AdamW a window, each before it."""
    import torch

    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.95), weight_decay=0.0)
    losses = []
    for row in rows:
        loss = cross_entropy(model, row)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def finish(output, what, command, versions, found, off):
    """Writes what was found, and ends the script: with 1 if anything is off."""
    result = {
        "what": what,
        "command": command,
        "machine": f"{platform.machine()}, {platform.system()}",
        **{module.__name__: module.__version__ for module in versions},
        "found": found,
        "off": off,
    }
    if output:
        Path(output).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(f"off: {', '.join(off)}" if off else 0)
