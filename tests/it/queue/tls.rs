//! Redis over TLS, with a certificate of an authority that no system knows.

use tcoder::config::Certificates;
use tcoder::queue::{EventFeed, Queue, QueueError};

use super::*;
use crate::support::redis_tls::TlsRedis;

async fn refusal(config: &RedisConfig) -> String {
    let error = Queue::connect(config).await.err().expect("it was trusted");
    assert!(matches!(&error, QueueError::Certificate(_)) && !error.is_transient(), "{error:?}");
    assert!(error.remedy().is_some());
    error.to_string()
}

#[tokio::test]
async fn certificate_of_redis_is_accepted_from_the_configured_authority_only() {
    let server = TlsRedis::start("DNS:localhost");
    let right = server.authority(true);
    let text = std::fs::read_to_string(&right).unwrap();
    for ca_cert in [Certificates::File(right), Certificates::Pem(text)] {
        let queue = Queue::connect_with(&server.config(Some(ca_cert)), LONG).await.unwrap();
        let mut feed = EventFeed::open(&queue).await.unwrap();
        let w = worker(&queue, "w").await;
        let id = submit(&queue, &spec()).await;
        assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, id);
        assert_eq!(feed.next(Duration::from_secs(60)).await.unwrap()[0].job_id, id);
    }
    let stranger = Some(Certificates::File(server.authority(false)));
    for ca_cert in [None, stranger] {
        let words = refusal(&server.config(ca_cert)).await;
        assert!(words.contains("set REDIS_CA_CERT") && words.contains("REDIS_URL"), "{words}");
    }
    let missing = refusal(&server.config(Some(Certificates::File("/nowhere/ca.pem".into())))).await;
    assert!(missing.contains("REDIS_CA_CERT cannot be read: /nowhere/ca.pem"), "{missing}");
    let empty = refusal(&server.config(Some(Certificates::Pem("-----BEGIN".into())))).await;
    assert!(empty.contains("REDIS_CA_CERT has no certificates"), "{empty}");
}

#[tokio::test]
async fn certificate_of_redis_for_another_host_is_refused() {
    let server = TlsRedis::start("DNS:redis.example");
    let words = refusal(&server.config(Some(Certificates::File(server.authority(true))))).await;
    assert!(words.contains("for another host") && words.contains("REDIS_URL"), "{words}");
}
