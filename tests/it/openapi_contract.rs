//! The API follows /openapi.json: valid and invalid requests are answered as it defines.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use crate::support::process::spawn;
use crate::support::system::{PATIENCE, Setup};

#[tokio::test]
async fn generated_requests_get_responses_that_match_the_contract() {
    let system = Setup::default().workers(0).start().await;
    let served = system.get("/openapi.json").await;
    assert_eq!((served.status, &*served.kind), (200, "application/json"));
    assert_eq!(served.body["openapi"], "3.1.0");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("hack/contract-test.sh");
    let mut command = Command::new(script);
    command.arg(&system.url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(PATIENCE, spawn(command).wait_with_output()).await;
    let output = ended.expect("schemathesis does not end").unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}\n{}", system.log());
    assert!(said.contains("19 selected / 20 total"), "{said}");
    system.stop().await;
}

/// The type of every problem is a URL that explains it.
#[tokio::test]
async fn problem_types_are_documented_at_their_address() {
    let system = crate::support::system::shared().await;
    let problem = system.get("/api/jobs/nothing").await;
    let kind = problem.body["type"].as_str().unwrap();
    let explained = system.get(kind).await;
    assert_eq!(explained.status, 200, "{explained:?}");
    assert!(explained.body.as_str().unwrap().contains("No such job"), "{explained:?}");
    assert_eq!(system.get("/problems/no-such-kind").await.status, 404);
}
