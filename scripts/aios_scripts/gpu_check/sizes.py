"""How large the stages are: on a GPU, on a GPU with --quick, and on something that only stands in for one."""

# Small enough for a renderer on two cores: a vocabulary of bytes, two blocks.
TINY_MODEL = (
    "--model {root}/tests/data/tokenizer.json --hidden-size 32 --num-heads 2 --h-layers 1 --l-layers 1"
    " --batch-size 2"
)
TINY_RUN = f"{TINY_MODEL} --max-seq-len 16 --no-amp --steps 2"
# Flags by stage; what is not named here runs at the program's own sizes.
SIZES = {
    "full": {
        "memory": "--rows plain,defaults,all",
        "context": "--forms plain,flash,chunked --seq-lens 2048,8192,32768",
        "context-lengths": "--seq-lens 1024,4096,16384,65536",
        "torch": "--rounds 1 --shapes 1x1024 8x128 --forms plain defaults all",
        "torch-attention": "--rounds 3 --seq-lens 2048,8192",
    },
    "quick": {
        "memory": "--rows plain,defaults,all --steps 2",
        "attention": "--seq-lens 1024,4096 --head-dims 64 --repeats 3",
        "context": "--forms flash,chunked --seq-lens 2048,8192",
        "torch": "--rounds 1 --shapes 1x1024 --forms plain all",
        "torch-attention": "--rounds 1 --seq-lens 4096 --head-dims 64",
    },
    "tiny": {
        "example": TINY_RUN,
        "default": TINY_RUN,
        "memory": f"--rows plain,all {TINY_MODEL} --max-seq-len 16 --steps 1",
        "attention": "--seq-lens 32,64 --head-dims 16 --heads 2 --window 16 --repeats 1",
        "context": f"--forms flash,chunked --seq-lens 16,32 {TINY_MODEL} --no-amp --chunk-size 8 --window-size 8",
        "torch": "--rounds 1 --steps 1 --warmup 1 --shapes 1x32 --forms plain",
        "torch-attention": "--rounds 1 --repeats 1 --seq-lens 64 --head-dims 16",
    },
}
