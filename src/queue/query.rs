//! Reads jobs: a single one, a page of them, and their counts.

use std::collections::BTreeSet;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::codec::{check_record_version, parse_spec, text_items};
use super::outbox::Outbox;
use super::{Command, Queue, QueueError, Reply, scripts};
use crate::job::{
    Epoch, Job, JobId, Millis, Part, PartFailure, ReadyRange, State, Timestamps, TokenName, WorkerId,
};

/// Selects the jobs of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only jobs in this state.
    pub state: Option<State>,
    /// Only jobs that were submitted by this token.
    pub owner: Option<TokenName>,
}

impl Filter {
    fn selects(&self, job: &Job) -> bool {
        // After an id was used again, the index of its former owner still has it.
        let is_owned = self.owner.is_none() || self.owner == job.owner;
        is_owned && self.state.is_none_or(|state| state == job.status)
    }
}

/// One page of a listing, newest first.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "JobList")]
pub struct Page {
    /// The jobs.
    pub jobs: Vec<Job>,
    /// Jobs whose record another version of tcoder has written, and this one cannot read.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unreadable: Vec<UnreadableJob>,
    /// Pass as `cursor` for the next page; absent on the last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// A job whose record cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnreadableJob {
    /// The job's id.
    pub job_id: JobId,
    /// What cannot be read.
    pub error: String,
}

/// The number of jobs in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Jobs that wait for their input.
    pub uploading: u64,
    /// Tasks that are ready for a worker: jobs, and parts of jobs that are encoded on several workers.
    pub pending: u64,
    /// Tasks that wait for their next attempt.
    pub scheduled: u64,
    /// Tasks that a worker holds.
    pub running: u64,
    /// Completed jobs that can still be read (for a week by default).
    pub completed: u64,
    /// Failed jobs that can still be read.
    pub failed: u64,
    /// Cancelled jobs that can still be read.
    pub cancelled: u64,
    /// Pending webhook deliveries.
    pub pending_webhooks: u64,
    /// How long the oldest ready job has waited for a worker, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_pending_ms: Option<i64>,
    /// Registered workers.
    pub workers: u64,
}

/// Number of index entries read at a time while a filter omits some.
const BATCH: usize = 100;
/// Maximum number of index entries read for a page, so that a listing stays cheap with any filter.
const MAX_ENTRIES: usize = 2_000;
/// Maximum number of classes whose queues are counted, so that counts stay cheap whatever classes jobs name.
const MAX_CLASSES: usize = 1_000;

impl Queue {
    /// Reads a job. A replica may not know a job that another client has just submitted, because it uses another sync
    /// token; the call then asks the primary, which runs all scripts. The version of a job on a replica may be older
    /// than the last write of another client.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn get(&self, id: JobId) -> Result<Option<Job>, QueueError> {
        let reply = self.run(Command::new("HGETALL").arg(self.status_key(id))).await?;
        let (reply, job) = match parse_job(id, &reply)? {
            None if self.transport.may_lag() => {
                let reply = self.eval(&scripts::READ, vec![id.to_string()]).await?;
                let job = parse_job(id, &reply)?;
                (reply, job)
            }
            found => (reply, found),
        };
        let Some(mut job) = job else { return Ok(None) };
        if job.plays_early() {
            let reports = self.run(Command::new("HKEYS").arg(self.reports_key(id))).await?;
            let segments = record_field(&reply, "segments").unwrap_or_default();
            let segments: Vec<u32> = segments.split(',').filter_map(|count| count.parse().ok()).collect();
            let parts: BTreeSet<Part> = text_items(&reports).filter_map(|name| name.parse().ok()).collect();
            job.ready = ReadyRange::of(&segments, |chunk| parts.contains(&Part::Chunk(chunk)));
        }
        Ok(Some(job))
    }

    /// Returns a page of at most `limit` jobs, newest first, starting at `cursor`.
    ///
    /// # Errors
    /// If Redis fails, or the cursor is invalid.
    pub async fn list(
        &self,
        filter: &Filter,
        limit: usize,
        cursor: Option<&str>,
    ) -> Result<Page, QueueError> {
        let mut position = match cursor {
            None => None,
            Some(text) => Some(Position::parse(text).ok_or(QueueError::Refused(
                "the cursor does not belong to this listing; omit it to start with the newest job".into(),
            ))?),
        };
        let index = match &filter.owner {
            Some(owner) => self.owner_index_key(owner),
            None => self.key("jobs:index"),
        };
        let (mut jobs, mut unreadable, mut looked) = (Vec::new(), Vec::new(), 0);
        loop {
            let (entries, last_batch) = self.index_after(&index, position.as_ref()).await?;
            let reads = entries.iter().map(|p| Command::new("HGETALL").arg(self.status_key(p.id)));
            let replies = self.pipeline(reads.collect()).await?;
            let mut gone = Vec::new();
            for (entry, reply) in entries.iter().zip(&replies) {
                position = Some(*entry);
                match parse_job(entry.id, reply) {
                    Ok(None) => gone.push(entry.id.to_string()),
                    Ok(Some(job)) if filter.selects(&job) => jobs.push(job),
                    Ok(Some(_)) => {}
                    // One record must not hide all others.
                    Err(error) => {
                        unreadable.push(UnreadableJob { job_id: entry.id, error: error.to_string() });
                    }
                }
                if jobs.len() == limit {
                    break;
                }
            }
            if !gone.is_empty() {
                self.forget(gone, filter.owner.as_ref()).await?;
            }
            looked += entries.len();
            if last_batch && entries.last().is_none_or(|last| position.is_some_and(|p| p.id == last.id)) {
                return Ok(Page { jobs, unreadable, next_cursor: None });
            }
            if jobs.len() >= limit || looked >= MAX_ENTRIES {
                return Ok(Page { jobs, unreadable, next_cursor: position.map(|p| p.to_string()) });
            }
        }
    }

    /// The entries of this index behind `position`, newest first, up to [`BATCH`], and whether they are the last ones.
    async fn index_after(
        &self,
        index: &str,
        position: Option<&Position>,
    ) -> Result<(Vec<Position>, bool), QueueError> {
        let mut skip_same_time = 0;
        loop {
            let command = Command::new("ZRANGE")
                .arg(index)
                .arg(position.map_or_else(|| "+inf".into(), |p| p.at.to_string()))
                .args(["-inf", "BYSCORE", "REV", "LIMIT", &skip_same_time.to_string()])
                .args([&BATCH.to_string(), "WITHSCORES"]);
            let reply = self.run(command).await?;
            let pairs = reply.list().unwrap_or_default().chunks_exact(2);
            let full = pairs.len() == BATCH;
            let behind: Vec<Position> = pairs
                .filter_map(|pair| Some(Position { at: pair[1].int()?, id: pair[0].text()?.parse().ok()? }))
                .filter(|entry| position.is_none_or(|p| (entry.at, entry.id) < (p.at, p.id)))
                .collect();
            if !behind.is_empty() || !full {
                return Ok((behind, !full));
            }
            skip_same_time += BATCH;
        }
    }

    /// Counts the jobs in each state.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn stats(&self) -> Result<Stats, QueueError> {
        let zcard = |name: &str| Command::new("ZCARD").arg(self.key(name));
        let replies = self
            .pipeline(vec![
                zcard("jobs:uploading"),
                zcard("jobs:pending"),
                zcard("jobs:scheduled"),
                zcard("jobs:leases"),
                zcard("jobs:dead"),
                zcard("machines:alive"),
                zcard(Outbox::Installation.key()),
                zcard("jobs:cancelled"),
                zcard("jobs:index"),
                Command::new("ZRANGE").arg(self.key("jobs:pending")).args(["0", "0"]),
                Command::new("TIME"),
                zcard(Outbox::Kubernetes.key()),
                Command::new("SMEMBERS").arg(self.key("jobs:split")),
                Command::new("SMEMBERS").arg(self.key("jobs:classes")),
            ])
            .await?;
        let count = |at: usize| replies.get(at).and_then(Reply::int).unwrap_or(0).unsigned_abs();
        let classes: Vec<&str> =
            replies.get(13).map(|reply| text_items(reply).take(MAX_CLASSES).collect()).unwrap_or_default();
        let (of_classes, mut first) = self.pending_of_classes(&classes).await?;
        first.extend(replies.get(9).and_then(|reply| text_items(reply).next().map(str::to_owned)));
        let pending = count(1) + of_classes;
        // The counts are read one after the other, so a job in transition may be missed or counted twice.
        let not_completed: u64 = pending + [0, 2, 3, 4, 7].map(count).iter().sum::<u64>();
        // The parts of these jobs are among the tasks, while the jobs themselves stand in none of the sets.
        let split: Vec<&str> = replies.get(12).map(|reply| text_items(reply).collect()).unwrap_or_default();
        let open_parts = self.count_open_parts(&split).await?;
        let not_completed = (not_completed + split.len() as u64).saturating_sub(open_parts);
        let now = replies.get(10).and_then(|r| r.list()?.first()?.int()).unwrap_or(0) * 1000;
        let queued =
            |task: &String| Command::new("HGET").arg(self.key(&format!("jobs:status:{task}"))).arg("queued");
        let since = self.pipeline(first.iter().map(queued).collect()).await?;
        let oldest_pending_ms = since.iter().filter_map(Reply::int).min().map(|at| (now - at).max(0));
        Ok(Stats {
            uploading: count(0),
            pending,
            scheduled: count(2),
            running: count(3),
            failed: count(4),
            workers: count(5),
            pending_webhooks: count(6) + count(11),
            cancelled: count(7),
            completed: count(8).saturating_sub(not_completed),
            oldest_pending_ms,
        })
    }

    /// The number of tasks that are ready for the workers of these classes, and the first of each.
    async fn pending_of_classes(&self, classes: &[&str]) -> Result<(u64, Vec<String>), QueueError> {
        let read = |class: &&str| {
            let queue = self.key(&format!("jobs:pending:{class}"));
            [Command::new("ZCARD").arg(&*queue), Command::new("ZRANGE").arg(queue).args(["0", "0"])]
        };
        let replies = self.pipeline(classes.iter().flat_map(read).collect()).await?;
        let count = replies.iter().filter_map(Reply::int).map(i64::unsigned_abs).sum();
        let first = replies.iter().flat_map(text_items).map(str::to_owned).collect();
        Ok((count, first))
    }

    /// The number of parts that are not completed yet of these jobs.
    async fn count_open_parts(&self, jobs: &[&str]) -> Result<u64, QueueError> {
        let counts = |id: &&str| {
            let all = Command::new("SCARD").arg(self.key(&format!("jobs:parts:{id}")));
            // One more than reports: the plan.
            [all, Command::new("HLEN").arg(self.key(&format!("jobs:reports:{id}")))]
        };
        let replies = self.pipeline(jobs.iter().flat_map(counts).collect()).await?;
        let numbers: Vec<u64> = replies.iter().map(|reply| reply.int().unwrap_or(0).unsigned_abs()).collect();
        Ok(numbers.chunks_exact(2).map(|pair| (pair[0] + 1).saturating_sub(pair[1].max(1))).sum())
    }

    /// Jobs that wait for their input, with the end of their upload window, soonest first.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn uploading(&self, limit: u32) -> Result<Vec<(JobId, Millis)>, QueueError> {
        let command = Command::new("ZRANGE").arg(self.key("jobs:uploading")).args([
            "0",
            &limit.saturating_sub(1).to_string(),
            "WITHSCORES",
        ]);
        let reply = self.run(command).await?;
        let pairs = reply.list().unwrap_or_default().chunks_exact(2);
        Ok(pairs.filter_map(|pair| Some((pair[0].text()?.parse().ok()?, Millis(pair[1].int()?)))).collect())
    }

    /// Removes expired jobs from the listings. `now` is Redis's time.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn prune_index(&self, now: Millis) -> Result<(), QueueError> {
        const LOOK_AT: usize = 500;
        let retention = i64::try_from(self.policy.retention.jobs.as_millis()).unwrap_or(i64::MAX);
        let before = format!("({}", now.0.saturating_sub(retention));
        let mut kept = 0;
        // The oldest entries may belong to jobs that live long; the loop skips those.
        loop {
            let old = Command::new("ZRANGE").arg(self.key("jobs:index")).args(["-inf", &before]).args([
                "BYSCORE",
                "LIMIT",
                &kept.to_string(),
                &LOOK_AT.to_string(),
            ]);
            let reply = self.run(old).await?;
            let ids: Vec<String> = text_items(&reply).map(str::to_owned).collect();
            let looked_at = ids.len();
            if looked_at == 0 {
                return Ok(());
            }
            kept += looked_at - self.forget(ids, None).await?;
            if looked_at < LOOK_AT {
                return Ok(());
            }
        }
    }

    /// Removes those of `ids` whose job has expired from the listings, that of their owner included if it is given, and
    /// returns their number.
    async fn forget(&self, ids: Vec<String>, owner: Option<&TokenName>) -> Result<usize, QueueError> {
        let owner = owner.map_or_else(String::new, ToString::to_string);
        let gone = self.eval_idempotent(&scripts::PRUNE_INDEX, [vec![owner], ids].concat()).await?;
        Ok(gone.int().and_then(|n| usize::try_from(n).ok()).unwrap_or(0))
    }

    /// Binds a client's idempotency key to a job for a day. Returns the job that the key is bound to: `id`, or an
    /// earlier one.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn bind_idempotency_key(&self, key_hash: &str, id: JobId) -> Result<JobId, QueueError> {
        let key = self.key(&format!("jobs:idempotency:{key_hash}"));
        let set = Command::new("SET").arg(&*key).arg(id.to_string()).args(["NX", "GET", "PX", "86400000"]);
        match self.run(set).await?.text() {
            None => Ok(id),
            Some(there) => there.parse().map_err(|_| QueueError::data("an idempotency key's job")),
        }
    }
}

/// A position in the index.
#[derive(Clone, Copy)]
pub(super) struct Position {
    pub at: i64,
    pub id: JobId,
}

impl Position {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (at, id) = text.split_once('_')?;
        Some(Self { at: at.parse().ok()?, id: id.parse().ok()? })
    }
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}", self.at, self.id)
    }
}

/// A field of a hash that is not empty.
fn record_field<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    let pair = reply.list().unwrap_or_default().chunks_exact(2).find(|pair| pair[0].text() == Some(name))?;
    pair[1].text().filter(|text| !text.is_empty())
}

/// Parses a job from its hash. Returns `None` if there is no job.
pub(super) fn parse_job(id: JobId, reply: &Reply) -> Result<Option<Job>, QueueError> {
    let field = |name: &str| record_field(reply, name);
    let (Some(state), Some(spec)) = (field("state"), field("spec")) else { return Ok(None) };
    let version = field("v").and_then(|v| v.parse().ok()).unwrap_or(0);
    check_record_version(&format!("the record of job {id}"), version)?;
    let bad = |what: &str| QueueError::data(format!("the {what} of job {id}"));
    let time = |name: &str| field(name).and_then(|t| t.parse().ok()).map(Millis);
    let json = |name: &'static str| {
        field(name).map(|json| serde_json::from_str(json).map_err(|_| bad(name))).transpose()
    };
    let number = |name: &str| field(name).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
    let spec = parse_spec(spec)?;
    let stored: State = state.parse().map_err(|_| bad("state"))?;
    // The end of a split job waits for a worker while players play the job.
    let plays = field("playable").is_some() && matches!(stored, State::Queued | State::Running);
    let worker = field("worker").map(|w| WorkerId(w.to_owned()));
    let epoch = Epoch(number("epoch"));
    let split = field("split").and_then(|epoch| epoch.parse().ok()).map(Epoch);
    let waits_for_parts = stored == State::Running && split == Some(epoch);
    let part_failure = field("failed_part").filter(|_| waits_for_parts);
    let owner = field("owner").map(str::parse).transpose().map_err(|_| bad("owner"))?;
    Ok(Some(Job {
        job_id: id,
        owner,
        status: if plays { State::Playable } else { stored },
        machine_id: worker.as_ref().map(|w| w.machine().to_owned()),
        filename: spec.input.file_name(),
        spec,
        attempt: u32::try_from(number("attempt")).unwrap_or(u32::MAX),
        epoch,
        worker,
        progress: field("progress").and_then(|p| p.parse().ok()).unwrap_or(0.0),
        timestamps: Timestamps {
            created_at: time("created"),
            uploaded_at: time("uploaded"),
            queued_at: time("queued"),
            started_at: time("started"),
            playable_at: time("playable"),
            retry_at: time("retry"),
            completed_at: time("finished"),
        },
        suspended: field("suspended").is_some(),
        error: json("error")?,
        part_failure: part_failure.and_then(|text| parse_part_failure(text, epoch)),
        result: field("result")
            .map(|json| serde_json::from_str(json).map_err(|_| bad("result")))
            .transpose()?,
        play_url: None,
        ready: Vec::new(),
        split,
        ignored: u32::try_from(number("ignored")).unwrap_or(u32::MAX),
        life: field("life").and_then(|epoch| epoch.parse().ok()).map(Epoch),
        committed: field("committed").and_then(|epoch| epoch.parse().ok()).map(Epoch),
    }))
}

/// Parses what tell_failed_part in lib.lua has written; `None` if it is about the parts of another split.
fn parse_part_failure(text: &str, split: Epoch) -> Option<PartFailure> {
    let mut fields = text.splitn(5, ' ');
    let by = fields.next()?.parse().ok().map(Epoch)?;
    let part: Part = fields.next()?.parse().ok()?;
    let failures = fields.next()?.parse().ok()?;
    let retry_at = fields.next()?.parse().ok().map(Millis).filter(|at| at.0 > 0);
    let failure = serde_json::from_str(fields.next()?).ok()?;
    (by == split).then(|| PartFailure { part: part.to_string(), failures, retry_at, failure })
}
