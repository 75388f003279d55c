//! Several fleets that share a queue: one without a name, and one for each WorkerPool whose machines no other pool can
//! have. Each has a lock, a status and a rate limit of its own; the queue, the workers and the pause
//! are the same for all.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::codec::from_versioned_json;
use super::fleet::parse_paused;
use super::fleet_status::{FleetStatus, Paused};
use super::{Command, Queue, QueueError, Reply, UploadedInput};
use crate::job::space::ALWAYS_FITS;
use crate::job::{Millis, WorkerClass};

/// The name of a fleet: empty, or the uid of the WorkerPool that it belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FleetName(Arc<str>);

impl FleetName {
    /// The name of a WorkerPool's fleet.
    #[must_use]
    pub fn of_pool(uid: &str) -> Self {
        Self(uid.into())
    }

    /// The name in Redis; empty for the fleet without a name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of a key that each fleet has for itself; the same as `of_fleet` in `lib.lua`.
    fn key(&self, key: &str) -> String {
        if self.0.is_empty() { key.to_owned() } else { format!("{key}:{}", self.0) }
    }
}

impl Default for FleetName {
    fn default() -> Self {
        Self("".into())
    }
}

impl fmt::Display for FleetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the reconcilers of all fleets published last, and the pause if there is one.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Fleets {
    /// The statuses that can be read; that of the fleet without a name comes first.
    pub statuses: BTreeMap<FleetName, FleetStatus>,
    /// Why the others cannot be read, each a text for people: they are of another version.
    pub unreadable: BTreeMap<FleetName, String>,
    /// Set while all fleets are paused.
    pub paused: Option<Paused>,
}

impl Fleets {
    /// The same, if any of the statuses can be read or there is none.
    ///
    /// # Errors
    /// If there are statuses, and all of them are of another version.
    pub fn or_unreadable(self) -> Result<Self, QueueError> {
        match self.unreadable.values().next() {
            Some(why) if self.statuses.is_empty() => Err(QueueError::data(why.clone())),
            _ => Ok(self),
        }
    }

    /// What the replies to these commands say.
    pub(super) fn parse(replies: &[Reply]) -> Result<Self, QueueError> {
        let [own, of_pools] = replies else { return Err(QueueError::data("the fleets' statuses")) };
        let text = |at: usize| own.list().and_then(|list| list.get(at)?.text());
        let own = text(0).map(|json| (FleetName::default(), "fleet:status", json));
        let pairs = of_pools.list().unwrap_or_default().chunks_exact(2);
        let of_pools = pairs
            .filter_map(|pair| Some((FleetName::of_pool(pair[0].text()?), "fleet:pools", pair[1].text()?)));
        let mut fleets = Self { paused: text(1).and_then(parse_paused), ..Self::default() };
        for (name, key, json) in own.into_iter().chain(of_pools) {
            match from_versioned_json(key, json) {
                Ok(status) => drop(fleets.statuses.insert(name, status)),
                Err(QueueError::Data(why)) => drop(fleets.unreadable.insert(name, why)),
                Err(error) => return Err(error),
            }
        }
        Ok(fleets)
    }

    /// The largest input in bytes that any worker takes which may claim a job of this class, if it is known. A status of
    /// another version cannot be read, which is no reason to refuse an input.
    #[must_use]
    pub fn input_limit(&self, class: &WorkerClass) -> Option<u64> {
        // A worker of any of these fleets may claim the job, if the fleet has any.
        let with_workers = self
            .statuses
            .values()
            .filter(|status| status.desired.max > 0 && status.worker_classes.contains(class));
        with_workers.filter_map(|status| status.max_input_bytes).min()
    }
}

impl Queue {
    /// The same queue, for the reconciler of this fleet.
    #[must_use]
    pub fn of_fleet(&self, fleet: FleetName) -> Self {
        Self { fleet, ..self.clone() }
    }

    /// The arguments of a script of this handle's fleet.
    pub(super) fn fleet_args(&self, args: impl IntoIterator<Item = String>) -> Vec<String> {
        [self.fleet.as_str().to_owned()].into_iter().chain(args).collect()
    }

    /// The status of this handle's fleet as last published, and the pause if there is one.
    ///
    /// # Errors
    /// If Redis fails, or if the status is of another version.
    pub async fn fleet(&self) -> Result<(Option<FleetStatus>, Option<Paused>), QueueError> {
        let Fleets { mut statuses, mut unreadable, paused } = self.fleets().await?;
        match unreadable.remove(&self.fleet) {
            Some(why) => Err(QueueError::data(why)),
            None => Ok((statuses.remove(&self.fleet), paused)),
        }
    }

    /// The statuses of all fleets as last published, and the pause if there is one.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fleets(&self) -> Result<Fleets, QueueError> {
        Fleets::parse(&self.pipeline(self.read_fleets().into()).await?)
    }

    /// The commands whose replies [`Fleets::parse`] reads.
    pub(super) fn read_fleets(&self) -> [Command; 2] {
        let keys = [self.key("fleet:status"), self.key("fleet:paused")];
        [Command::new("MGET").args(keys), Command::new("HGETALL").arg(self.key("fleet:pools"))]
    }

    /// The largest input in bytes of a job of this class that workers take, if it is known: from the settings, or from the
    /// fleets. These are only asked because of an input of `size` bytes that does not fit every machine.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn input_limit(&self, size: u64, class: &WorkerClass) -> Result<Option<u64>, QueueError> {
        match self.configured_limit(class) {
            Some(most) => Ok(Some(most)),
            None if size <= ALWAYS_FITS => Ok(None),
            None => Ok(self.fleets().await?.input_limit(class)),
        }
    }

    /// The limit of the settings, which is about the workers of these classes alone.
    fn configured_limit(&self, class: &WorkerClass) -> Option<u64> {
        self.policy.max_input_bytes.filter(|_| self.classes.contains(class))
    }

    /// The same for the inputs of jobs that wait for them, of their classes: the highest limit of all that are so large.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn input_limit_of(&self, inputs: &[UploadedInput]) -> Result<Option<u64>, QueueError> {
        let always_fits = self.policy.max_input_bytes.unwrap_or(ALWAYS_FITS);
        let large: Vec<&UploadedInput> = inputs.iter().filter(|input| input.size > always_fits).collect();
        if large.is_empty() {
            return Ok(None);
        }
        let class =
            |input: &&UploadedInput| Command::new("HGET").arg(self.status_key(input.job)).arg("class");
        let mut commands: Vec<Command> = large.iter().map(class).collect();
        let classes = commands.len();
        commands.extend(self.read_fleets());
        let replies = self.pipeline(commands).await?;
        let (classes, fleets) = replies.split_at_checked(classes).unwrap_or_default();
        let fleets = Fleets::parse(fleets)?;
        let class = |reply: &Reply| reply.text().and_then(|name| name.parse().ok()).unwrap_or_default();
        let limit = |class: &WorkerClass| self.configured_limit(class).or_else(|| fleets.input_limit(class));
        let limits = classes.iter().map(|reply| limit(&class(reply)));
        // A worker of a class without a limit decides by itself, and so does one for what is between two limits.
        Ok(limits.collect::<Option<Vec<u64>>>().and_then(|limits| limits.into_iter().max()))
    }

    /// When the last lock of these fleets expires, if one was ever held. While jobs wait, its holder renews a lock even
    /// without news.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn fleet_locks_expiry(
        &self,
        fleets: impl IntoIterator<Item = &FleetName>,
    ) -> Result<Option<Millis>, QueueError> {
        let until =
            |fleet: &FleetName| Command::new("HGET").arg(self.key(&fleet.key("fleet:lock"))).arg("until");
        let commands: Vec<Command> = fleets.into_iter().map(until).collect();
        if commands.is_empty() {
            return Ok(None);
        }
        let replies = self.pipeline(commands).await?;
        Ok(replies.iter().filter_map(Reply::int).max().map(Millis))
    }

    /// Removes what is stored of a fleet that nobody manages any more.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn forget_fleet(&self, fleet: &FleetName) -> Result<(), QueueError> {
        let status = if *fleet == FleetName::default() {
            Command::new("DEL").arg(self.key("fleet:status"))
        } else {
            Command::new("HDEL").arg(self.key("fleet:pools")).arg(fleet.as_str())
        };
        let lock = Command::new("DEL").arg(self.key(&fleet.key("fleet:lock")));
        self.pipeline(vec![status, lock]).await.map(drop)
    }

    /// Removes what is stored of those of these fleets whose lock ended longer than `age` ago: their WorkerPools were
    /// deleted while no controller ran, or no process manages them since an upgrade. Who manages a fleet without work
    /// renews its lock more often, and publishes its status anew if it takes the lock again.
    ///
    /// # Errors
    /// If Redis fails.
    pub async fn forget_dead_fleets(&self, fleets: &Fleets, age: Duration) -> Result<(), QueueError> {
        if fleets.statuses.is_empty() && fleets.unreadable.is_empty() {
            return Ok(());
        }
        let now = self.clock().await?.now();
        for name in fleets.statuses.keys().chain(fleets.unreadable.keys()) {
            let until = self.fleet_locks_expiry([name]).await?.unwrap_or(Millis(0));
            let is_dead = u128::try_from(now.0.saturating_sub(until.0)).is_ok_and(|ms| ms > age.as_millis());
            if is_dead {
                self.forget_fleet(name).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::FleetDesired;

    #[test]
    fn limit_of_inputs_is_that_of_the_fleets_of_the_class() {
        let fleet = |classes: &str, max, limit| FleetStatus {
            worker_classes: classes.parse().unwrap(),
            desired: FleetDesired { max, ..FleetDesired::default() },
            max_input_bytes: limit,
            ..FleetStatus::default()
        };
        let statuses = [
            fleet("default", 3, Some(10)),
            fleet("default,large", 3, Some(50)),
            fleet("large", 0, Some(5)),
            fleet("small", 3, None),
        ];
        let names = (0..).map(|n| FleetName::of_pool(&format!("u{n}")));
        let fleets = Fleets { statuses: names.zip(statuses).collect(), ..Fleets::default() };
        let limit = |class: &str| fleets.input_limit(&class.parse().unwrap());
        assert_eq!(
            (limit("default"), limit("large")),
            (Some(10), Some(50)),
            "a fleet without machines has no worker"
        );
        assert_eq!((limit("small"), limit("huge")), (None, None));
    }
}
