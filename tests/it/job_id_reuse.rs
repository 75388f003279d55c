//! A job's id can be used again after its record has expired, and the new job gets its own result.

use serde_json::json;

use crate::support::clips::clip;
use crate::support::system::Setup;

#[tokio::test]
async fn reused_job_id_gets_its_own_outputs() {
    let system = Setup::default().start().await;
    let job_request = |quality: &str| json!({"preset": "web-optimized", "outputQualities": [quality]});
    let id = system.upload(clip(), &job_request("144p")).await;
    let first = system.completed(&id).await;
    assert_eq!(first["outputs"][0]["quality"], "144p", "{first:#}");

    // A week later the record has expired, but the files still exist.
    let mut redis = system.redis();
    let key: Vec<String> = redis::cmd("KEYS").arg(format!("*jobs:status:{id}")).query(&mut redis).unwrap();
    redis::cmd("DEL").arg(&key).exec(&mut redis).unwrap();
    let mut again = job_request("240p");
    again["jobId"] = json!(id);
    assert_eq!(system.upload(clip(), &again).await, id);
    let second = system.completed(&id).await;
    let key = format!("outputs/{id}/{}/240p.mp4", second["epoch"]);
    assert_eq!(
        (&second["outputs"][0]["quality"], &second["outputs"][0]["key"]),
        (&json!("240p"), &json!(key))
    );
    assert_ne!(second["epoch"], first["epoch"]);
    assert!(
        system.objects("output", &format!("outputs/{id}")).await.iter().any(|o| o.ends_with("/240p.mp4"))
    );
    system.stop().await;
}
