//! The whole content of Redis, and what the model expects there.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::test_runner::TestCaseError;
use tcoder::job::{CLASS_VERSION, Failure, State};

use super::{CLASSES, JOBS, Lockstep, job_id};
use crate::queue::arrived;
use crate::queue::model::Job;

impl Lockstep<'_> {
    /// The whole content of Redis except for the events, as flat text.
    pub(super) fn in_redis(&mut self) -> BTreeMap<String, String> {
        const SETS: [&str; 8] = [
            "jobs:uploading",
            "jobs:pending",
            "jobs:pending:large",
            "jobs:scheduled",
            "jobs:leases",
            "jobs:dead",
            "jobs:cancelled",
            "jobs:index",
        ];
        let mut pipe = redis::pipe();
        for name in SETS {
            pipe.cmd("ZRANGE").arg(self.key(name)).arg(0).arg(-1).arg("WITHSCORES");
        }
        let sets: Vec<Vec<(String, i64)>> = pipe.query(self.redis).unwrap();
        let mut all = BTreeMap::new();
        for (name, set) in SETS.iter().zip(sets) {
            for (member, score) in set {
                // The score of a listing depends on the caller's clock; only its presence matters.
                let score = if *name == "jobs:index" { 0 } else { score };
                all.insert(format!("{name} {member}"), score.to_string());
            }
        }
        let (outbox, bells, bells_of_class, is_listed): (Vec<String>, u32, u32, bool) = redis::pipe()
            .cmd("ZRANGE")
            .arg(self.key("webhooks:outbox"))
            .arg(&["0", "-1"])
            .zcard(self.key("jobs:bell"))
            .zcard(self.key("jobs:bell:class:large"))
            .sismember(self.key("jobs:classes"), "large")
            .query(self.redis)
            .unwrap();
        all.extend(outbox.into_iter().map(|member| (format!("outbox {member}"), String::new())));
        assert!(bells.max(bells_of_class) <= 16, "{bells} and {bells_of_class} entries in the bells");
        let is_in_use = all.keys().any(|place| place.starts_with("jobs:pending:large "));
        assert!(is_listed || !is_in_use, "the class is not listed");
        for n in 0..JOBS {
            let id = job_id(n);
            let key = self.key(&format!("jobs:status:{id}"));
            type Found = (BTreeMap<String, String>, i64, bool, Vec<String>, Vec<String>, Vec<(String, i64)>);
            let (hash, ttl, waits, parts, reports, held_back): Found = redis::pipe()
                .hgetall(&key)
                .pttl(&key)
                .sismember(self.key("jobs:split"), id.to_string())
                .smembers(self.key(&format!("jobs:parts:{id}")))
                .hkeys(self.key(&format!("jobs:reports:{id}")))
                .zrange_withscores(self.key(&format!("jobs:heldback:{id}")), 0, -1)
                .query(self.redis)
                .unwrap();
            put_record(&mut all, &n.to_string(), hash);
            if ttl != -2 {
                all.insert(format!("{n} expires"), (ttl > 0).to_string());
            }
            all.extend(waits.then(|| (format!("{n} waits"), String::new())));
            all.extend(reports.into_iter().map(|part| (format!("{n} reports {part}"), String::new())));
            let held_back = held_back.into_iter();
            all.extend(held_back.map(|(part, rank)| (format!("{n} holds back {part}"), rank.to_string())));
            let mut pipe = redis::pipe();
            for part in &parts {
                pipe.hgetall(self.key(&format!("jobs:status:{id}/{part}")));
            }
            let records: Vec<BTreeMap<String, String>> =
                if parts.is_empty() { Vec::new() } else { pipe.query(self.redis).unwrap() };
            for (part, hash) in parts.iter().zip(records) {
                all.insert(format!("{n} part {part}"), String::new());
                put_record(&mut all, &format!("{n}/{part}"), hash);
            }
        }
        all
    }

    /// No record of a job or a part is there that the model does not have, and no other key of a part.
    pub(super) fn compare_keys(&mut self) -> Result<(), TestCaseError> {
        let mut real: Vec<String> = redis::cmd("KEYS").arg(self.key("jobs:*-*")).query(self.redis).unwrap();
        // Nobody who waited for a sound is known for long.
        real.retain(|key| !key.contains("jobs:asked:"));
        real.sort();
        let mut expected = Vec::new();
        for (id, job) in &self.model.jobs {
            expected.push(self.key(&format!("jobs:status:{id}")));
            if !job.parts.is_empty() {
                expected.push(self.key(&format!("jobs:parts:{id}")));
                expected.push(self.key(&format!("jobs:reports:{id}")));
            }
            if !job.held_back.is_empty() {
                expected.push(self.key(&format!("jobs:heldback:{id}")));
            }
            expected.extend(job.parts.keys().map(|part| self.key(&format!("jobs:status:{id}/{part}"))));
        }
        expected.sort();
        prop_assert_eq!(real, expected);
        Ok(())
    }

    pub(super) fn in_model(&self) -> BTreeMap<String, String> {
        let model = &self.model;
        let mut all = BTreeMap::new();
        let mut put = |name: String, value: String| drop(all.insert(name, value));
        for (id, at) in &model.uploading {
            put(format!("jobs:uploading {id}"), at.to_string());
        }
        for (rank, id) in &model.pending {
            let lane = ["jobs:pending", "jobs:pending:large"][usize::from(model.jobs[&id.job].terms.class)];
            put(format!("{lane} {id}"), rank.to_string());
        }
        for (task, at) in &model.scheduled {
            put(format!("jobs:scheduled {task}"), at.to_string());
        }
        for (attempt, at) in &model.leases {
            put(format!("jobs:leases {attempt}"), at.to_string());
        }
        for (id, at) in &model.dead {
            put(format!("jobs:dead {id}"), at.to_string());
        }
        for (attempt, state) in &model.outbox {
            put(format!("outbox {attempt}:{state}"), String::new());
        }
        for (id, at) in &model.cancelled {
            put(format!("jobs:cancelled {id}"), at.to_string());
        }
        for n in 0..JOBS {
            let Some(job) = model.jobs.get(&job_id(n)) else { continue };
            put(format!("jobs:index {}", job_id(n)), "0".into());
            put(format!("{n} hook"), u8::from(job.terms.hook).to_string());
            put(format!("{n} expires"), (job.state.is_terminal() && !job.suspended).to_string());
            put_fields(&mut put, &n.to_string(), job);
            put_fields_of_parts(&mut put, n, job);
        }
        all
    }
}

/// The fields of a job, or of a part of one.
fn put_fields(put: &mut impl FnMut(String, String), name: &str, job: &Job) {
    let fields = [
        ("state", Some(job.state.to_string())),
        ("max", Some(job.terms.max.to_string())),
        ("boost", Some(job.terms.boost.to_string())),
        ("attempt", Some(job.attempt.to_string())),
        ("epoch", Some(job.epoch.to_string())),
        ("rank", Some(job.rank.to_string())),
        ("created", Some(job.created.to_string())),
        ("uploaded", job.uploaded.map(|t| t.to_string())),
        ("input_version", arrived(job_id(0)).etag.filter(|_| job.pinned)),
        ("queued", job.queued.map(|t| t.to_string())),
        ("retry", job.retry.map(|t| t.to_string())),
        ("started", job.started.map(|t| t.to_string())),
        ("finished", job.finished.map(|t| t.to_string())),
        ("worker", job.worker.map(|w| format!("w{w}"))),
        ("progress", (job.progress > 0).then(|| job.progress.to_string())),
        ("error", job.error.map(|code| format!("{code:?}"))),
        ("failed_part", job.failed_part.clone()),
        ("result", job.result.map(|epoch| epoch.to_string())),
        ("committed", job.result.map(|epoch| epoch.to_string())),
        ("verify", job.verify.then(|| "1".to_owned())),
        ("suspended", job.suspended.then(|| "1".to_owned())),
        ("overdue", job.overdue.map(|from| from.to_string())),
        ("split", job.split.map(|epoch| epoch.to_string())),
        ("limited", job.limited.then(|| "1".to_owned())),
        ("extra", job.extra.then(|| "1".to_owned())),
        ("awaited", job.awaited.then(|| "1".to_owned())),
        ("class", (job.terms.class > 0).then(|| CLASSES[usize::from(job.terms.class)].to_owned())),
        // Older versions may read the record of a job again that has succeeded.
        ("v", (job.terms.class > 0 && job.state != State::Completed).then(|| CLASS_VERSION.to_string())),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            put(format!("{name} {field}"), value);
        }
    }
}

fn put_fields_of_parts(put: &mut impl FnMut(String, String), n: u8, job: &Job) {
    if job.waits() {
        put(format!("{n} waits"), String::new());
    }
    if !job.parts.is_empty() {
        put(format!("{n} reports plan"), String::new());
    }
    for part in &job.reports {
        put(format!("{n} reports {part}"), String::new());
    }
    for (rank, part) in &job.held_back {
        put(format!("{n} holds back {part}"), rank.to_string());
    }
    for (part, record) in &job.parts {
        put(format!("{n} part {part}"), String::new());
        put_fields(put, &format!("{n}/{part}"), record);
    }
}

fn put_record(all: &mut BTreeMap<String, String>, name: &str, hash: BTreeMap<String, String>) {
    for (field, value) in hash {
        let value = readable(&field, value);
        if !value.is_empty() {
            all.insert(format!("{name} {field}"), value);
        }
    }
}

/// A field of a job's hash in terms of the model; empty if the model does not have it.
fn readable(field: &str, value: String) -> String {
    match field {
        "v" if value != CLASS_VERSION.to_string() => String::new(),
        "spec" | "keep" | "claim" | "before" | "life" | "segments" => String::new(),
        "progress" => {
            let percent: f64 = value.parse().unwrap();
            if percent == 0.0 { String::new() } else { percent.to_string() }
        }
        "error" if !value.is_empty() => {
            let failure: Failure = serde_json::from_str(&value).unwrap();
            format!("{:?}", failure.code)
        }
        "failed_part" => {
            let (place, failure) = value.split_at(value.find('{').unwrap());
            let failure: Failure = serde_json::from_str(failure).unwrap();
            format!("{place}{:?}", failure.code)
        }
        "result" if !value.is_empty() => {
            let result: tcoder::job::JobResult = serde_json::from_str(&value).unwrap();
            result.source.size.to_string()
        }
        _ => value,
    }
}
