//! The janitor deletes what is of no use any more: outputs of attempts that did not complete their job, unfinished
//! uploads, and inputs and outputs that are kept no longer. Real Redis, a real S3 server; the janitor's own tasks.

use std::time::Duration;

use futures::StreamExt as _;
use tcoder::config::{RedisConfig, Retention};
use tcoder::janitor::{JanitorTasks, SubrequestBudget};
use tcoder::job::{
    AttemptId, Failure, FailureCode, Input, JobId, JobResult, JobSpec, Ladder, Part, Preset, WorkerId,
};
use tcoder::manifest::{ManifestStore, Verdict};
use tcoder::queue::{
    Claim, Claimed, NewPart, PartOutcome, PartsInfo, Queue, SplitOutcome, SubmitMode, WorkerRecord,
};
use tcoder::storage::urls::UrlSigner;
use tcoder::storage::{Bucket, PutCondition, layout};

use crate::support::clips::clip;
use crate::support::objects::{ObjectServer, client, keys_below, put_input};
use crate::support::redis::{raw, shared};
use crate::support::system::{PATIENCE, Setup};

struct Installation {
    tasks: JanitorTasks,
    queue: Queue,
    redis: RedisConfig,
    storage: ObjectServer,
}

impl Installation {
    async fn new(retention: Retention) -> Self {
        let (redis, storage) = (shared(), ObjectServer::start().await);
        let queue = Queue::connect(&redis).await.unwrap().with_retention(retention);
        let tasks = JanitorTasks {
            queue: queue.clone(),
            storage: storage.storage(),
            links: UrlSigner::new(&storage.config, None).unwrap(),
            webhooks: None,
        };
        Self { tasks, queue, redis, storage }
    }

    async fn submit(&self, input: &str) -> JobId {
        let spec = JobSpec::new(Input::Key(input.parse().unwrap()), Preset::WebOptimized, Ladder::default());
        let id = JobId::new();
        self.queue.submit(id, &spec, SubmitMode::Now).await.unwrap();
        id
    }

    async fn claim(&self) -> Claimed {
        let now = self.queue.clock().await.unwrap().now();
        let record = WorkerRecord {
            worker_id: WorkerId("w".into()),
            machine_id: "here".into(),
            version: "0".into(),
            pid: 1,
            started_at: now,
            worker_classes: tcoder::job::WorkerClasses::default(),
            sandbox: None,
        };
        self.queue.register(&record, now).await.unwrap();
        match self.queue.claim(&record.worker_id, now, false).await.unwrap() {
            Claim::Job(job) => *job,
            other => panic!("no job: {other:?}"),
        }
    }

    async fn commit(&self, job: &Claimed) -> Verdict {
        let storage = self.storage.storage();
        ManifestStore { storage: &storage, attempt: job.attempt, born: job.born }
            .commit(result())
            .await
            .unwrap()
    }

    /// Uploads this many outputs of the attempt.
    async fn outputs(&self, attempt: AttemptId, count: usize) {
        let storage = self.storage.storage();
        let prefix = layout::attempt_prefix(attempt).unwrap();
        let puts = (0..count).map(|n| {
            let (storage, key) = (storage.clone(), prefix.join(&format!("{n}.ts")).unwrap());
            async move {
                let put = storage.put_if(PutCondition::Absent, Bucket::Output, &key, vec![1], "video/mp2t");
                put.await.unwrap();
            }
        });
        futures::stream::iter(puts).buffer_unordered(16).collect::<Vec<_>>().await;
    }

    async fn output_keys(&self, id: JobId) -> Vec<String> {
        keys_below(&self.storage.config, "output", &format!("outputs/{id}")).await
    }

    fn cleanups(&self) -> Vec<String> {
        let key = format!("{}jobs:cleanup", self.redis.prefix);
        redis::cmd("ZRANGE").arg(key).arg(&["0", "-1"]).query(&mut raw(&self.redis)).unwrap()
    }

    /// Makes every cleanup due and has the janitor look once; returns the cleanups that are left.
    async fn clean_up(&self) -> Vec<String> {
        let key = format!("{}jobs:cleanup", self.redis.prefix);
        for member in self.cleanups() {
            redis::cmd("ZADD").arg(&key).arg(&["1", &member]).exec(&mut raw(&self.redis)).unwrap();
        }
        let mut budget = SubrequestBudget(1000);
        let report = self.tasks.run_once(0, false, &mut budget).await.unwrap();
        self.tasks.clean_up(report.cleanups, report.now, &mut budget).await.unwrap();
        self.cleanups()
    }
}

pub fn result() -> JobResult {
    serde_json::from_value(serde_json::json!({
        "outputs": [],
        "source": {"format": "mp4", "size": 1, "duration": 1.0, "video": {
            "codec": "h264", "width": 2, "height": 2, "frameRate": 25.0, "rotation": 0, "hdr": false}},
        "timings": {"downloadSeconds": 0.0, "transcodeSeconds": 0.0, "uploadSeconds": 0.0},
        "speed": 1.0, "cpuSeconds": 1.0,
    }))
    .unwrap()
}

fn hopeless() -> Failure {
    Failure::new(FailureCode::InvalidMedia, "the file is no video")
}

#[tokio::test]
async fn outputs_of_lost_attempts_are_deleted_and_those_of_the_committed_one_stay() {
    let here = Installation::new(Retention::default()).await;
    let id = here.submit("inputs/a.mp4").await;
    let released = here.claim().await;
    here.outputs(released.attempt, 3).await;
    assert!(here.queue.release(released.attempt).await.unwrap());
    let committed = here.claim().await;
    here.outputs(committed.attempt, 2).await;
    assert!(matches!(here.commit(&committed).await, Verdict::Result(_)));
    // It dies before it reports; the next one adopts its result.
    assert!(here.queue.release(committed.attempt).await.unwrap());
    let adopting = here.claim().await;
    here.queue.complete(&adopting, &result(), committed.attempt.epoch).await.unwrap();

    assert_eq!(here.clean_up().await, [format!("attempt-again:{}", released.attempt)]);
    let epoch = committed.attempt.epoch;
    let kept = [format!("{epoch}/0.ts"), format!("{epoch}/1.ts"), "manifest.json".to_owned()];
    assert_eq!(here.output_keys(id).await, kept);
}

#[tokio::test]
async fn attempt_whose_outputs_were_deleted_cannot_commit_any_more_and_a_later_one_can() {
    let here = Installation::new(Retention::default()).await;
    let id = here.submit("inputs/a.mp4").await;
    let zombie = here.claim().await;
    here.outputs(zombie.attempt, 2).await;
    here.queue.release(zombie.attempt).await.unwrap();
    let later = here.claim().await;
    assert_eq!(here.clean_up().await, [format!("attempt-again:{}", zombie.attempt)]);
    assert_eq!(here.output_keys(id).await, ["manifest.json"]);
    // The zombie wakes up in the middle of its upload.
    here.outputs(zombie.attempt, 1).await;
    assert_eq!(here.commit(&zombie).await, Verdict::Superseded);
    here.outputs(later.attempt, 1).await;
    assert!(
        matches!(here.commit(&later).await, Verdict::Result(there) if there.epoch == later.attempt.epoch)
    );
    here.queue.complete(&later, &result(), later.attempt.epoch).await.unwrap();
    // A day later what it wrote is found.
    assert_eq!(here.clean_up().await, Vec::<String>::new());
    let kept = [format!("{}/0.ts", later.attempt.epoch), "manifest.json".to_owned()];
    assert_eq!(here.output_keys(id).await, kept);
}

#[tokio::test]
async fn thousands_of_objects_and_an_unfinished_upload_of_a_failed_job_are_deleted() {
    let here = Installation::new(Retention::default()).await;
    let id = here.submit("inputs/a.mp4").await;
    let failed = here.claim().await;
    here.outputs(failed.attempt, 2500).await;
    let s3 = client(&here.storage.config);
    let key = format!("outputs/{id}/{}/large.mp4", failed.attempt.epoch);
    s3.create_multipart_upload().bucket("output").key(&key).send().await.unwrap();
    here.queue.fail(&failed, &hopeless()).await.unwrap();
    assert_eq!(here.clean_up().await, [format!("attempt-again:{}", failed.attempt)]);
    assert_eq!(here.output_keys(id).await, ["manifest.json"]);
    let open = s3.list_multipart_uploads().bucket("output").send().await.unwrap();
    assert_eq!(open.uploads().len(), 0, "{open:?}");
}

#[tokio::test]
async fn uploaded_inputs_and_outputs_are_deleted_when_they_are_kept_no_longer() {
    let day = Duration::from_secs(24 * 3600);
    let retention = Retention { inputs: Some(day), outputs: Some(day), ..Retention::default() };
    let here = Installation::new(retention).await;
    let own = "films/own.mp4";
    put_input(&here.storage.config, own, vec![1]).await;
    let id = here.submit(own).await;
    // An upload for this job lies in its folder.
    put_input(&here.storage.config, &format!("inputs/{id}/a.mp4"), vec![1]).await;
    let job = here.claim().await;
    here.outputs(job.attempt, 2).await;
    here.commit(&job).await;
    here.queue.complete(&job, &result(), job.attempt.epoch).await.unwrap();
    let born = job.born;
    assert_eq!(here.cleanups(), [format!("input:{id}:{}", born.0), format!("outputs:{id}:{}", born.0)]);
    assert_eq!(here.clean_up().await, Vec::<String>::new());
    assert_eq!(here.output_keys(id).await, Vec::<String>::new());
    assert_eq!(keys_below(&here.storage.config, "input", "").await, [own]);
}

#[tokio::test]
async fn objects_of_a_job_that_runs_again_are_kept() {
    let day = Duration::from_secs(24 * 3600);
    let here = Installation::new(Retention { inputs: Some(day), ..Retention::default() }).await;
    let id = here.submit("inputs/a.mp4").await;
    let key = format!("inputs/{id}/a.mp4");
    put_input(&here.storage.config, &key, vec![1]).await;
    let job = here.claim().await;
    here.queue.fail(&job, &hopeless()).await.unwrap();
    here.queue.redrive(id).await.unwrap();
    assert_eq!(here.clean_up().await, [format!("attempt-again:{}", job.attempt)]);
    assert_eq!(keys_below(&here.storage.config, "input", "").await, [key]);
}

#[tokio::test]
async fn uploaded_input_is_deleted_by_a_running_installation() {
    let system = Setup::default().env("INPUT_RETENTION", "1").start().await;
    let id = system
        .upload(clip(), &serde_json::json!({"preset": "web-optimized", "outputQualities": ["144p"]}))
        .await;
    system.completed(&id).await;
    let gone = async {
        while !system.objects("input", &format!("inputs/{id}")).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the input is kept");
    assert!(!system.objects("output", &format!("outputs/{id}")).await.is_empty());
    system.stop().await;
}

#[tokio::test]
async fn objects_are_kept_for_ever_by_default() {
    let here = Installation::new(Retention::default()).await;
    let id = here.submit("inputs/a.mp4").await;
    let job = here.claim().await;
    here.queue.complete(&job, &result(), job.attempt.epoch).await.unwrap();
    assert_eq!(here.queue.get(id).await.unwrap().unwrap().committed, Some(job.attempt.epoch));
    assert_eq!(here.cleanups(), Vec::<String>::new());
}

/// Splits the claimed job into one chunk, stores outputs for it, and completes it.
async fn encoded_in_parts(here: &Installation) -> AttemptId {
    let planned = here.claim().await;
    let parts = [NewPart { part: Part::Chunk(0), behind_ms: 0, segments: Some(1), is_held_back: false }];
    assert_eq!(here.queue.split(planned.attempt, "{}", &parts).await.unwrap(), SplitOutcome::Split);
    let chunk = here.claim().await;
    here.outputs(planned.attempt, 2).await;
    let all = PartsInfo { count: 1, can_play: true };
    let (outcome, _) = here.queue.complete_part(&chunk, "{}", all, None).await.unwrap();
    assert_eq!(outcome, PartOutcome::Done);
    planned.attempt
}

#[tokio::test]
async fn outputs_of_parts_stay_while_the_job_is_finished_by_another_attempt() {
    let here = Installation::new(Retention::default()).await;
    let id = here.submit("inputs/a.mp4").await;
    let split = encoded_in_parts(&here).await;
    let first = here.claim().await;
    assert_eq!((first.part, first.split), (None, Some(split)));
    assert!(here.queue.release(first.attempt).await.unwrap());
    // The janitor shuts out the first attempt at finishing the job, while the second one is at it.
    let second = here.claim().await;
    assert_eq!(here.clean_up().await, [format!("attempt-again:{}", first.attempt)]);
    let storage = here.storage.storage();
    let manifest = |job: &Claimed| ManifestStore { storage: &storage, attempt: job.attempt, born: job.born };
    let shut_out = manifest(&first).commit_in(split.epoch, result()).await.unwrap();
    assert_eq!(shut_out, Verdict::Superseded);
    let Verdict::Result(committed) = manifest(&second).commit_in(split.epoch, result()).await.unwrap() else {
        panic!("the second attempt could not commit")
    };
    assert_eq!((committed.epoch, committed.folder), (second.attempt.epoch, Some(split.epoch)));
    here.queue.complete_in(&second, &result(), committed.epoch, split.epoch).await.unwrap();
    here.clean_up().await;
    assert_eq!(here.output_keys(id).await.len(), 3, "two segments and the manifest");
}

#[tokio::test]
async fn outputs_of_parts_are_deleted_when_they_were_only_intermediate_or_their_job_has_failed() {
    let here = Installation::new(Retention::default()).await;
    let joined = here.submit("inputs/a.mp4").await;
    let split = encoded_in_parts(&here).await;
    let finish = here.claim().await;
    here.outputs(finish.attempt, 1).await;
    assert!(matches!(here.commit(&finish).await, Verdict::Result(_)));
    here.queue.complete(&finish, &result(), finish.attempt.epoch).await.unwrap();
    assert_eq!(here.clean_up().await, [format!("attempt-again:{split}")]);
    assert_eq!(here.output_keys(joined).await.len(), 2, "one output and the manifest");

    let failed = here.submit("inputs/b.mp4").await;
    let split = encoded_in_parts(&here).await;
    let finish = here.claim().await;
    here.queue.fail(&finish, &hopeless()).await.unwrap();
    here.clean_up().await;
    assert!(here.output_keys(failed).await.iter().all(|key| key.ends_with("manifest.json")));
    // An attempt that was lost comes too late, now that the segments are gone.
    let storage = here.storage.storage();
    let late = ManifestStore { storage: &storage, attempt: finish.attempt, born: finish.born };
    assert_eq!(late.commit_in(split.epoch, result()).await.unwrap(), Verdict::Superseded);
}
