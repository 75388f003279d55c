//! The trait of a machine provider, and what its answers mean to the plan.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::{Launch, Machine, MachineId, MachineSize};
use super::observation::ListFailure;
use super::operation::Outcome;
use super::price::MicroDollars;

/// Who runs machines. Each call is one request, for which its caller has a permit of the shared rate limit.
///
/// A name exists once: a create under a taken name makes no machine. Stopping what is stopped, and starting what
/// runs, is no error.
#[expect(async_fn_in_trait, reason = "futures are Send where a host spawns them, and cannot be on wasm32")]
pub trait MachineProvider {
    /// What it tells people.
    fn words() -> &'static ProviderWords;

    /// Its list price of an hour of a machine; nothing where it has none for this size.
    fn price_per_hour(size: MachineSize) -> Option<MicroDollars>;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// The machines that exist.
    ///
    /// # Errors
    /// Why there is no list.
    async fn list(&self) -> Result<Vec<Machine>, ProviderError>;

    /// Makes a machine and starts it.
    ///
    /// # Errors
    /// Why it was not made, or that it is not known whether it was.
    async fn create(&self, order: &MachineOrder<'_>) -> Result<Machine, ProviderError>;

    /// Starts a machine at rest.
    ///
    /// # Errors
    /// Why it was not started, or that it is not known whether it was.
    async fn start(&self, machine: &MachineId) -> Result<(), ProviderError>;

    /// Tells a machine's process to end.
    ///
    /// # Errors
    /// Why it was not told, or that it is not known whether it was.
    async fn stop(&self, machine: &MachineId) -> Result<(), ProviderError>;

    /// Destroys a machine; one that runs only by force.
    ///
    /// # Errors
    /// Why it was not destroyed, or that it is not known whether it was.
    async fn destroy(&self, machine: &MachineId, force: bool) -> Result<(), ProviderError>;
}

/// What a provider can do beside creating, listing and destroying machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It can stop a machine and start it again. Without this a machine at rest is of no use and is destroyed.
    pub can_stop_and_start: bool,
}

/// A machine to be made.
#[derive(Clone, Debug)]
pub struct MachineOrder<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where: one of the policy's regions, or [`super::ANY_REGION`].
    pub region: &'a str,
    /// Its size.
    pub size: MachineSize,
    /// How it is made. Lists show this again.
    pub launch: Launch,
    /// Settings of its worker.
    pub environment: BTreeMap<String, String>,
}

/// What a provider tells people: its name, and sentences that name its settings.
#[derive(Clone, Copy, Debug)]
pub struct ProviderWords {
    /// Its name.
    pub name: &'static str,
    /// It refuses to list machines for want of a token.
    pub list_refused: &'static str,
    /// It refuses to change machines for want of a token.
    pub writes_refused: &'static str,
    /// It does not know the app.
    pub no_such_app: &'static str,
    /// It wants to be paid.
    pub billing: &'static str,
    /// Its quota is reached.
    pub quota: &'static str,
    /// What to do where no region has room.
    pub no_capacity: &'static str,
    /// What to look at where machines cannot be run.
    pub launches_failing: &'static str,
    /// What to look at where machines run and no worker registers.
    pub workers_not_registering: &'static str,
}

/// Why a provider did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    /// What kind of failure it is.
    pub failure: ProviderFailure,
    /// A sentence for people.
    pub message: String,
}

/// Kinds of failures.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderFailure {
    /// Too many requests; nothing was done.
    RateLimited {
        /// How long the provider asks us to wait, where it says so.
        retry_after: Option<Duration>,
    },
    /// It cannot be reached, or cannot answer; nothing was done.
    Unavailable,
    /// There is no room for the machine.
    NoCapacity,
    /// The account's quota is reached.
    Quota,
    /// A machine has this name already; its id, if the provider said so.
    NameTaken(Option<MachineId>),
    /// The machine is in a state that does not allow it.
    Precondition,
    /// The token is not accepted.
    Unauthorized,
    /// The account's payment is not in order.
    Billing,
    /// There is no such app.
    NoSuchApp,
    /// There is no such machine.
    NotFound,
    /// A write of which it is not known whether it was done.
    UnknownOutcome,
    /// Any other refusal.
    Rejected,
}

impl ProviderError {
    /// How an operation ended.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.failure {
            ProviderFailure::RateLimited { retry_after } => {
                Outcome::RateLimited { retry_after: *retry_after }
            }
            // Nothing was done, and asking at once would end the same: wait as after a refusal.
            ProviderFailure::Unavailable => Outcome::RateLimited { retry_after: None },
            ProviderFailure::NoCapacity => Outcome::NoCapacity,
            ProviderFailure::Quota => Outcome::Quota,
            ProviderFailure::NameTaken(by) => Outcome::NameTaken(by.clone()),
            ProviderFailure::Precondition => Outcome::Precondition,
            ProviderFailure::Unauthorized => Outcome::Unauthorized,
            ProviderFailure::Billing => Outcome::Billing,
            ProviderFailure::NoSuchApp | ProviderFailure::NotFound => Outcome::NotFound,
            ProviderFailure::UnknownOutcome => Outcome::Unknown,
            ProviderFailure::Rejected => Outcome::Rejected,
        }
    }

    /// Why there is no list.
    #[must_use]
    pub const fn list_failure(&self) -> ListFailure {
        match &self.failure {
            ProviderFailure::Unauthorized => ListFailure::Unauthorized,
            ProviderFailure::Billing => ListFailure::Billing,
            ProviderFailure::NoSuchApp => ListFailure::NoSuchApp,
            _ => ListFailure::Failed,
        }
    }
}
