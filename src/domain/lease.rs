//! Leadership: who may do the periodic work, and for how long.

use std::time::Duration;

/// How long a lease holds after its last renewal, by Postgres' clock. A leader's death is taken over within this time
/// plus one [`RENEWAL`].
pub const DURATION: Duration = Duration::from_secs(4);

/// How often the leader renews, and how often the others try.
pub const RENEWAL: Duration = Duration::from_secs(1);

/// The fencing token of one leadership. It grows with every take-over, and each of the leader's writes checks it in its
/// own transaction: a leader that only thinks it leads can't write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Token(pub i64);
