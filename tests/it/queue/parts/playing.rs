//! A split job that is played while it is encoded.

use tcoder::config::RedisConfig;
use tcoder::job::{Priority, StreamSegment};
use tcoder::queue::SegmentState;
use tokio::time::timeout;

use super::costs::HANG;
use super::*;
use crate::queue::wake::{NEVER, blocked};
use crate::support::kube::free_port;
use crate::support::redis::private_redis;
use crate::support::tcp_proxy::TcpProxy;

#[tokio::test]
async fn part_that_a_viewer_waits_for_is_claimed_by_a_worker_that_claims_nothing_else() {
    let server = private_redis(&[]);
    let queue = Queue::connect_with(&server.config(), LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &hooked(), 3).await;
    let at = claim_parts(&queue, 2).await.remove(0).at;
    let awaited = async || queue.claim_only(&w, at, Claimable::AwaitedPart).await.unwrap();
    assert!(matches!(awaited().await, Claim::Empty { .. }));
    let own = queue.reconnect().await.unwrap();
    let bell = tokio::spawn(async move { own.wait_for_awaited_part(NEVER).await });
    blocked(&server, 1).await;
    let segment = StreamSegment::Video(4);
    assert_eq!(queue.await_segment(by, segment).await.unwrap(), SegmentState::Waiting);
    bell.await.unwrap().unwrap();
    let Claim::Job(job) = awaited().await else { panic!("no part is awaited") };
    assert_eq!((job.part, job.is_awaited), (Some(Part::Chunk(2)), true));
    // Nobody is woken for a part that is encoded already.
    assert_eq!(queue.await_segment(by, segment).await.unwrap(), SegmentState::Waiting);
    assert!(matches!(awaited().await, Claim::Empty { .. }));
    let Claim::Job(next) = queue.claim_only(&w, at, Claimable::Part).await.unwrap() else {
        panic!("no part")
    };
    assert_eq!((next.part, next.is_awaited), (Some(Part::Chunk(1)), false));
    // One that is returned to the queue is awaited once its viewer asks again.
    queue.release(job.lease()).await.unwrap();
    assert!(matches!(awaited().await, Claim::Empty { .. }));
    queue.await_segment(by, segment).await.unwrap();
    assert!(matches!(awaited().await, Claim::Job(_)));
}

/// The places among the awaited sounds that no worker has taken.
fn awaited_sounds(config: &RedisConfig) -> Vec<String> {
    zset(&mut raw(config), config, "jobs:bell:sound").into_iter().map(|(place, _)| place).collect()
}

#[tokio::test]
async fn sound_around_a_chunk_is_asked_for_once_while_viewers_wait_and_the_sound_is_behind() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 4).await;
    let held = claim_parts(&queue, 5).await;
    let all = PartsInfo { count: 5, can_play: true };
    let waits = async |segment| queue.await_segment(by, segment).await.unwrap();
    let asked = async || queue.wait_for_awaited_sound(Duration::from_millis(10)).await.unwrap();
    use SegmentState::{Ready, Waiting};
    // The beginning is encoded at once anyway.
    for segment in [StreamSegment::Audio(1), StreamSegment::Video(1)] {
        assert_eq!(waits(segment).await, Waiting);
    }
    assert_eq!(asked().await, None);
    // Each chunk has two segments. The third is encoded already.
    queue.complete_part(&held[3], "{}", all, None).await.unwrap();
    assert_eq!(waits(StreamSegment::Video(4)).await, Ready);
    assert_eq!(awaited_sounds(&config), [""; 0], "the player asks for the sound, too");
    for _ in 0..3 {
        assert_eq!(waits(StreamSegment::Audio(5)).await, Waiting);
    }
    let sound = asked().await.unwrap();
    assert_eq!((sound.split, sound.chunk, &*sound.plan, &sound.spec), (by, 2, PLAN, &spec()));
    assert_eq!(waits(StreamSegment::Audio(4)).await, Waiting);
    assert_eq!(asked().await, None, "a worker was asked for it a moment ago");
    // The sound may be longer than the picture.
    assert_eq!(waits(StreamSegment::Audio(8)).await, Waiting);
    assert_eq!(asked().await.unwrap().chunk, 3);
    // A chunk that is not encoded yet is awaited with its sound.
    assert_eq!(waits(StreamSegment::Video(2)).await, Waiting);
    assert_eq!(asked().await.unwrap().chunk, 1);
    // A minute later, the sound has come further.
    let forget = || {
        let keys: Vec<String> = redis::cmd("KEYS")
            .arg(format!("{}jobs:asked:*", config.prefix))
            .query(&mut raw(&config))
            .unwrap();
        assert_eq!(keys.len(), 3);
        redis::cmd("DEL").arg(keys).exec(&mut raw(&config)).unwrap();
    };
    forget();
    queue.report_sound(&held[0], 5).await.unwrap();
    assert_eq!(
        (waits(StreamSegment::Audio(4)).await, waits(StreamSegment::Audio(5)).await),
        (Ready, Waiting)
    );
    assert_eq!(asked().await.unwrap().chunk, 2);
    queue.complete_part(&held[0], "{}", all, None).await.unwrap();
    assert_eq!(
        (waits(StreamSegment::Audio(8)).await, waits(StreamSegment::Video(6)).await),
        (Ready, Waiting)
    );
    assert_eq!(asked().await, None);
}

#[tokio::test]
async fn sound_of_a_job_that_has_ended_is_not_asked_for_and_few_places_are_kept() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 80).await;
    for chunk in 1..80 {
        queue.await_segment(by, StreamSegment::Audio(2 * chunk)).await.unwrap();
    }
    let kept = awaited_sounds(&config);
    assert_eq!(kept.len(), 64);
    let bell = format!("{}jobs:bell:sound", config.prefix);
    let rest: i64 = redis::cmd("PTTL").arg(bell).query(&mut raw(&config)).unwrap();
    assert!((1..=10_000).contains(&rest), "{rest}");
    let asked = async || queue.wait_for_awaited_sound(Duration::from_millis(10)).await.unwrap();
    assert!(asked().await.is_some());
    queue.cancel(by.job).await.unwrap();
    assert_eq!(asked().await, None);
    assert_eq!(awaited_sounds(&config).len(), 62, "it was taken");
}

#[tokio::test]
async fn part_that_a_viewer_waits_for_stands_in_front_of_jobs_of_any_priority() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let with_priority = |priority| JobSpec { priority: Priority::try_from(priority).unwrap(), ..spec() };
    let low = split_job(&queue, &w, &with_priority(-100), 2).await;
    let held = claim_parts(&queue, 2).await;
    let high = submit(&queue, &with_priority(100)).await;
    queue.await_segment(low, StreamSegment::Video(2)).await.unwrap();
    let claimed = queue.claim_only(&w, held[0].at, Claimable::AwaitedPart).await.unwrap();
    let Claim::Job(job) = claimed else { panic!("{claimed:?}") };
    assert_eq!((job.attempt.job, job.part, job.is_awaited), (low.job, Some(Part::Chunk(1)), true));
    // Once its worker is lost, it is one of many again.
    queue.release(job.lease()).await.unwrap();
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, high);
    let again = claim(&queue, &w).await.unwrap();
    assert_eq!((again.part, again.is_awaited), (Some(Part::Chunk(1)), false));
}

#[tokio::test]
async fn awaited_parts_of_two_jobs_stand_by_the_priority_of_their_jobs() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let mut jobs = Vec::new();
    for priority in [0, 5] {
        let spec = JobSpec { priority: Priority::try_from(priority).unwrap(), ..spec() };
        jobs.push(split_job(&queue, &w, &spec, 3).await);
        claim_parts(&queue, 3).await;
    }
    for by in &jobs {
        queue.await_segment(*by, StreamSegment::Video(4)).await.unwrap();
    }
    for by in jobs.iter().rev() {
        let job = claim(&queue, &w).await.unwrap();
        assert_eq!((job.attempt.job, job.part), (by.job, Some(Part::Chunk(2))));
    }
}

#[tokio::test]
async fn repeated_claim_of_a_part_knows_that_a_viewer_waits_for_it() {
    let port = free_port();
    let server = private_redis(&["--port", &port.to_string()]);
    let proxy = TcpProxy::to(port).await;
    let config = RedisConfig::new(format!("redis://127.0.0.1:{}", proxy.port), server.config().prefix);
    let queue = Queue::connect_with(&config, LONG).await.unwrap();
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &spec(), 3).await;
    let at = claim_parts(&queue, 2).await.remove(0).at;
    let claim_after_a_lost_answer = async || {
        proxy.lose_answers(1);
        let claim = timeout(HANG, queue.claim_only(&w, at, Claimable::Any)).await.unwrap().unwrap();
        assert_eq!(proxy.will_lose(), 0, "no answer was lost");
        let Claim::Job(job) = claim else { panic!("{claim:?}") };
        job
    };
    queue.await_segment(by, StreamSegment::Video(4)).await.unwrap();
    let job = claim_after_a_lost_answer().await;
    assert_eq!((job.part, job.is_awaited, job.number), (Some(Part::Chunk(2)), true, 1));
    let job = claim_after_a_lost_answer().await;
    assert_eq!((job.part, job.is_awaited, job.number), (Some(Part::Chunk(1)), false, 1));
}

#[tokio::test]
async fn parts_that_are_held_back_enter_the_queue_one_by_one_or_when_a_viewer_waits() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let by = claim(&queue, &w).await.unwrap().attempt;
    queue.split(by, PLAN, &limited_parts(5, 2)).await.unwrap();
    let part = async || Some(claim(&queue, &w).await?.part.unwrap());
    // The sound, and two chunks at once.
    let held = claim_parts(&queue, 3).await;
    assert_eq!(held.iter().map(|job| job.part.unwrap()).max(), Some(Part::Chunk(1)));
    let waiting = async || {
        let view = queue.fleet_view(&WorkerClasses::default()).await.unwrap();
        (all_waiting(&view).pending, all_waiting(&view).parts)
    };
    assert_eq!((part().await, waiting().await), (None, (0, 0)));
    let complete = async |job: &Claimed| assert_eq!(complete_part(&queue, job, 6).await, PartOutcome::Done);
    complete(held.iter().find(|job| job.part == Some(Part::Audio)).unwrap()).await;
    assert_eq!(part().await, None, "the sound is beside the chunks");
    let chunks: Vec<&Claimed> = held.iter().filter(|job| job.part != Some(Part::Audio)).collect();
    complete(chunks[0]).await;
    assert_eq!(waiting().await, (1, 1));
    let third = claim(&queue, &w).await.unwrap();
    assert_eq!(third.part, Some(Part::Chunk(2)));
    // A viewer does not wait for others.
    queue.await_segment(by, StreamSegment::Video(8)).await.unwrap();
    let last = claim(&queue, &w).await.unwrap();
    assert_eq!((last.part, last.is_awaited), (Some(Part::Chunk(4)), true));
    // It was beside the two, and lets nothing in.
    complete(&last).await;
    assert_eq!(waiting().await, (0, 0));
    complete(chunks[1]).await;
    complete(&third).await;
    complete(&claim(&queue, &w).await.unwrap()).await;
    let finish = claim(&queue, &w).await.unwrap();
    assert_eq!((finish.part, finish.split), (None, Some(by)));
}

#[tokio::test]
async fn cancelled_job_leaves_nothing_of_what_was_held_back() {
    let (queue, config) = queue().await;
    let w = worker(&queue, "w").await;
    submit(&queue, &spec()).await;
    let by = claim(&queue, &w).await.unwrap().attempt;
    queue.split(by, PLAN, &limited_parts(5, 2)).await.unwrap();
    let keys = || -> Vec<String> {
        let pattern = format!("{}jobs:heldback:{}", config.prefix, by.job);
        redis::cmd("KEYS").arg(pattern).query(&mut raw(&config)).unwrap()
    };
    assert_eq!(keys().len(), 1);
    queue.cancel(by.job).await.unwrap();
    assert_eq!(keys(), Vec::<String>::new());
}

#[tokio::test]
async fn job_at_the_front_of_the_queue_stays_there_for_those_who_claim_jobs() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let at = now(&queue).await;
    let id = submit(&queue, &spec()).await;
    for claimable in [Claimable::Part, Claimable::AwaitedPart] {
        assert!(matches!(queue.claim_only(&w, at, claimable).await.unwrap(), Claim::Empty { .. }));
    }
    assert_eq!(claim(&queue, &w).await.unwrap().attempt.job, id);
}

#[tokio::test]
async fn planned_segment_that_the_last_chunk_does_not_have_is_unknown() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &hooked(), 2).await;
    let held = claim_parts(&queue, 3).await;
    let all = PartsInfo { count: 3, can_play: true };
    let waits = async |number| queue.await_segment(by, StreamSegment::Video(number)).await.unwrap();
    assert_eq!(waits(3).await, SegmentState::Waiting);
    // Each was to have two segments, and only of the last chunk the plan may be wrong.
    let report = r#"{"chunk":{"rungs":[{"segments":[{"file":"segment_00002.m4s"}]}]}}"#;
    queue.complete_part(&held[1], report, all, None).await.unwrap();
    queue.complete_part(&held[2], report, all, None).await.unwrap();
    let states = [waits(0).await, waits(1).await, waits(2).await, waits(3).await];
    use SegmentState::{Ready, Unknown};
    assert_eq!(states, [Ready, Ready, Ready, Unknown]);
}

#[tokio::test]
async fn job_is_playable_once_its_first_chunk_and_the_beginning_of_its_sound_are_stored() {
    let (queue, _) = queue().await;
    let w = worker(&queue, "w").await;
    let by = split_job(&queue, &w, &hooked(), 2).await;
    let held = claim_parts(&queue, 3).await;
    let status = async || queue.get(by.job).await.unwrap().unwrap().status;
    let all = PartsInfo { count: 3, can_play: true };
    let waits = async |segment| queue.await_segment(by, segment).await.unwrap();
    assert_eq!(waits(StreamSegment::Audio(0)).await, SegmentState::Waiting);
    queue.complete_part(&held[1], "{}", all, None).await.unwrap();
    assert_eq!(status().await, State::Running);
    assert!(queue.report_sound(&held[0], 2).await.unwrap());
    assert_eq!(status().await, State::Playable);
    assert_eq!(waits(StreamSegment::Audio(1)).await, SegmentState::Ready);
    assert_eq!(waits(StreamSegment::Audio(2)).await, SegmentState::Waiting);
    assert_eq!(waits(StreamSegment::Video(1)).await, SegmentState::Ready);
    assert_eq!(waits(StreamSegment::Video(2)).await, SegmentState::Waiting);
    assert_eq!(waits(StreamSegment::Video(4)).await, SegmentState::Unknown);
    let messages: Vec<String> = queue.deliveries().await.unwrap().iter().map(ToString::to_string).collect();
    assert_eq!(messages, [format!("{by}:playable")]);
    // An attempt after a lost one begins anew, and takes nothing back.
    assert!(queue.report_sound(&held[0], 1).await.unwrap());
    assert_eq!(waits(StreamSegment::Audio(1)).await, SegmentState::Ready);
    queue.complete_part(&held[0], "{}", all, None).await.unwrap();
    queue.complete_part(&held[2], "{}", all, None).await.unwrap();
    assert_eq!(status().await, State::Playable, "clients see nothing of the finish");
    let finish = claim(&queue, &w).await.unwrap();
    queue.complete(&finish, &result_of(1), by.epoch).await.unwrap();
    assert_eq!(waits(StreamSegment::Video(2)).await, SegmentState::Ended(State::Completed));
}
