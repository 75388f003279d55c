//! The trait of a machine provider, and how its errors affect the plan.

use std::collections::BTreeMap;
use std::time::Duration;

use super::machine::{Launch, Machine, MachineId};
use super::observation::ListFailure;
use super::operation::Outcome;
use super::price::MicroDollars;
use super::size::MachineSize;

/// A service that runs machines. Each call is one request; the caller has obtained a permit of the shared
/// rate limit for it.
///
/// Names are unique: a create with a name that is taken creates no machine. It is not an error to stop a
/// stopped machine or to start a running one.
#[expect(async_fn_in_trait, reason = "futures are Send where a host spawns them, and cannot be on wasm32")]
pub trait MachineProvider {
    /// The provider's name and messages.
    fn words() -> &'static ProviderWords;

    /// The list price of one machine per hour; `None` if this size has none.
    fn price_per_hour(size: MachineSize) -> Option<MicroDollars>;

    /// What the provider supports.
    fn capabilities(&self) -> Capabilities;

    /// Lists the machines that exist.
    ///
    /// # Errors
    /// Why there is no list.
    async fn list(&self) -> Result<Vec<Machine>, ProviderError>;

    /// Creates a machine and starts it.
    ///
    /// # Errors
    /// Why it was not created, or that the outcome is unknown.
    async fn create(&self, order: &MachineOrder<'_>) -> Result<Machine, ProviderError>;

    /// Starts a stopped machine.
    ///
    /// # Errors
    /// Why it was not started, or that the outcome is unknown.
    async fn start(&self, machine: &MachineId) -> Result<(), ProviderError>;

    /// Stops a machine's process.
    ///
    /// # Errors
    /// Why it was not stopped, or that the outcome is unknown.
    async fn stop(&self, machine: &MachineId) -> Result<(), ProviderError>;

    /// Destroys a machine. A running machine is only destroyed with `force`.
    ///
    /// # Errors
    /// Why it was not destroyed, or that the outcome is unknown.
    async fn destroy(&self, machine: &MachineId, force: bool) -> Result<(), ProviderError>;
}

/// What a provider can do besides creating, listing and destroying machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// It can stop a machine and start it again. Without this a stopped machine is useless and is destroyed.
    pub can_stop_and_start: bool,
}

/// The parameters of a create.
#[derive(Clone, Debug)]
pub struct MachineOrder<'a> {
    /// The name, unique in the fleet.
    pub name: &'a str,
    /// One of the policy's regions, or [`super::ANY_REGION`].
    pub region: &'a str,
    /// Its size. Lists must return this again.
    pub size: MachineSize,
    /// How it is created. Lists must return this again.
    pub launch: Launch,
    /// The environment of its worker.
    pub environment: BTreeMap<String, String>,
}

/// The provider's name, and messages that name its settings.
#[derive(Clone, Copy, Debug)]
pub struct ProviderWords {
    /// The name, unique in the fleet.
    pub name: &'static str,
    /// Message when it refuses to list machines because of the token.
    pub list_refused: &'static str,
    /// Message when it refuses to change machines because of the token.
    pub writes_refused: &'static str,
    /// Message when it does not know the app.
    pub no_such_app: &'static str,
    /// Message when the account must be paid first.
    pub billing: &'static str,
    /// Message when the quota is exhausted.
    pub quota: &'static str,
    /// Message when there is no capacity for another machine.
    pub no_capacity: &'static str,
    /// What to check if machines fail to launch.
    pub launches_failing: &'static str,
    /// What to check if machines run but no worker registers.
    pub workers_not_registering: &'static str,
    /// What to change if workers register that do not take the jobs of all classes.
    pub workers_without_classes: &'static str,
}

/// Why a request to the provider failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct ProviderError {
    /// The kind of failure.
    pub failure: ProviderFailure,
    /// A sentence for logs and people.
    pub message: String,
}

/// The kinds of failures, as far as they affect the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderFailure {
    /// Too many requests; nothing was done.
    RateLimited {
        /// The delay that the provider asked for, if any.
        retry_after: Option<Duration>,
    },
    /// It is unreachable or cannot answer; nothing was done.
    Unavailable,
    /// There is no capacity for the machine.
    NoCapacity,
    /// The quota of the account is exhausted.
    Quota,
    /// A machine with this name already exists; with its id if the provider reported it.
    NameTaken(Option<MachineId>),
    /// The machine is in a state that does not allow the operation.
    Precondition,
    /// The token was rejected.
    Unauthorized,
    /// The account must be paid first.
    Billing,
    /// The app does not exist.
    NoSuchApp,
    /// The machine does not exist.
    NotFound,
    /// A write with an unknown outcome.
    UnknownOutcome,
    /// Any other refusal.
    Rejected,
}

impl ProviderError {
    /// The outcome of the operation that failed with this error.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match &self.failure {
            ProviderFailure::RateLimited { retry_after } => {
                Outcome::RateLimited { retry_after: *retry_after }
            }
            // Nothing was done and an immediate retry would fail, too: wait as after a refusal.
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

    /// The reason for which there is no list.
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
