//! The manifest of the kubectl plugin for krew, as a release fills it in, by krew's own validator.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use tokio::process::Command;

use crate::support::process::{err, out, spawn};
use crate::support::system::{PATIENCE, folder};

async fn run(program: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The first run builds the validator.
    let ended = tokio::time::timeout(PATIENCE * 2, spawn(command).wait_with_output()).await;
    ended.expect("it does not end").unwrap()
}

async fn krew_sh(args: &[&str]) -> String {
    let output = run(&Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/krew.sh"), args).await;
    assert!(output.status.success(), "hack/krew.sh {args:?}: {}", err(&output));
    out(&output)
}

#[tokio::test]
async fn manifest_of_a_release_is_valid_for_krew_and_names_its_archives() {
    let archives = folder("krew");
    let there = archives.to_str().unwrap();
    // The archives of both architectures differ, as those of a release do.
    for (architecture, program) in [("amd64", env!("CARGO_BIN_EXE_tcoder")), ("arm64", "/bin/sh")] {
        krew_sh(&["archive", program, architecture, there]).await;
    }
    let manifest = krew_sh(&["manifest", "someone", "v1.2.3", there]).await;
    for placeholder in ["OWNER", "VERSION", "SHA256", "#"] {
        assert!(!manifest.contains(placeholder), "{placeholder}: {manifest}");
    }
    for architecture in ["amd64", "arm64"] {
        let name = format!("kubectl-tcoder-linux-{architecture}.tar.gz");
        let sum = out(&run(Path::new("sha256sum"), &[archives.join(&name).to_str().unwrap()]).await);
        let uri = format!("https://github.com/someone/tcoder/releases/download/v1.2.3/{name}");
        let listed = format!("    uri: {uri}\n    sha256: {}\n", sum.split_whitespace().next().unwrap());
        assert!(manifest.contains(&listed), "{listed}{manifest}");
    }
    // The validator compares the name of the file with that of the plugin.
    let path = archives.join("tcoder.yaml");
    std::fs::write(&path, manifest).unwrap();
    let validator = PathBuf::from(krew_sh(&["validator"]).await.trim());
    let valid = run(&validator, &["-manifest", path.to_str().unwrap(), "-skip-install"]).await;
    assert!(valid.status.success(), "{}", err(&valid));
    // It sees what is wrong.
    let without_sums = Path::new(env!("CARGO_MANIFEST_DIR")).join("manifests/krew/tcoder.yaml");
    let refused = run(&validator, &["-manifest", without_sums.to_str().unwrap(), "-skip-install"]).await;
    assert!(!refused.status.success());

    // What kubectl would run.
    let archive = archives.join("kubectl-tcoder-linux-amd64.tar.gz");
    let unpack = ["-xzf", archive.to_str().unwrap(), "-C", there];
    assert!(run(Path::new("tar"), &unpack).await.status.success());
    assert!(archives.join("LICENSE").exists());
    let help = run(&archives.join("kubectl-tcoder"), &["--help"]).await;
    assert!(out(&help).contains("Usage: kubectl tcoder"), "{}", out(&help));
}
