//! The page, in a real browser: a film goes through it and plays, a job is called off, a failure is explained,
//! the fleet is paused; at desktop and phone width, with nothing that axe-core finds fault with.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::clips::heavy;
use crate::support::system::{PATIENCE, Setup, long_clip, spawn};

#[tokio::test]
async fn people_can_use_the_page() {
    let system = Setup::default().workers(2).coming_and_going().start().await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    // Kept, so that somebody can look at them.
    let shots = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page-shots");
    let mut command = Command::new(root.join("hack/page-test.sh"));
    let (film, heavy) = (long_clip(), heavy());
    command.arg(&system.url).arg(film).arg(heavy).arg(&shots);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    let output = ended.expect("the browser does not end").unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}\n{}", system.log());
    assert!(said.contains("page_axe_violations 0"), "{said}");
    assert_eq!(std::fs::read_dir(&shots).unwrap().count(), 10, "{said}");
    system.stop().await;
}
