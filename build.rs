//! Tells the program which commit it is built from, if the sources are a clone.

use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Else it is the commit of a repository that these sources only lie in.
    if git(&["rev-parse", "--show-cdup"]).is_none_or(|up| !up.is_empty()) {
        return;
    }
    // Written by each commit and checkout.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo::rerun-if-changed={log}");
    }
    if let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) {
        println!("cargo::rustc-env=AIOS_COMMIT={commit}");
    }
}

fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_string())
}
