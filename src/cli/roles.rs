//! The users of a private nats-server: the permission lists that ship with the project, with passwords of one run.

use std::fmt::Write as _;
use std::io::Read as _;

use crate::hub::Options;
use crate::nats::NatsOptions;

/// Who may do what, as it ships: lines for the top level of a nats-server's configuration.
pub const ROLES: &str = include_str!("../../deploy/nats/roles.conf");

/// Where [`ROLES`] lists its users.
const USERS: &str = "users: [\n";

/// The user that answers requests.
pub const ANSWERS: &str = "hub-answers";

/// The user that writes KV and events.
pub const WRITES: &str = "hub-writes";

/// The users of [`ROLES`], each with a password that was made up. `Debug` never shows one.
#[derive(Clone)]
pub struct Roles(Vec<Role>);

#[derive(Clone)]
struct Role {
    user: &'static str,
    variable: &'static str,
    password: String,
}

impl std::fmt::Debug for Roles {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.users()).finish()
    }
}

impl Roles {
    /// Makes a password up for each user.
    ///
    /// # Errors
    /// When the system has no random bytes.
    pub fn generate() -> std::io::Result<Self> {
        let settings = |name: &'static str| ROLES.lines().filter_map(move |line| line.trim().strip_prefix(name));
        let mut random = std::fs::File::open("/dev/urandom")?;
        let mut password = || -> std::io::Result<String> {
            let mut bytes = [0u8; 16];
            random.read_exact(&mut bytes)?;
            // A letter first: the server would take some values for numbers.
            Ok(bytes.iter().fold("p".to_owned(), |mut text, byte| {
                let _ = write!(text, "{byte:02x}");
                text
            }))
        };
        let roles = settings("user: ").zip(settings("password: $"));
        let roles = roles.map(|(user, variable)| Ok(Role { user, variable, password: password()? }));
        roles.collect::<std::io::Result<_>>().map(Self)
    }

    /// The names of the users.
    pub fn users(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().map(|role| role.user)
    }

    /// A user's password; `None` when there is no such user.
    #[must_use]
    pub fn password(&self, user: &str) -> Option<&str> {
        self.0.iter().find(|role| role.user == user).map(|role| role.password.as_str())
    }

    /// Lines for a nats-server that knows these users and nobody else.
    #[must_use]
    pub fn config(&self) -> String {
        let mut text = String::new();
        for Role { variable, password, .. } in &self.0 {
            let _ = writeln!(text, "{variable}: {password}");
        }
        text + ROLES
    }

    /// Lines for a nats-server where, beside these users, whoever comes without a name may do anything.
    #[must_use]
    pub fn open_config(&self) -> String {
        let users = format!("{USERS}    {{ user: developer }}\n");
        format!("{}\nno_auth_user: developer\n", self.config().replacen(USERS, &users, 1))
    }

    /// How a user connects, with inboxes of its own; `None` when there is no such user.
    #[must_use]
    pub fn nats_options(&self, user: &str, url: &str) -> Option<NatsOptions> {
        let password = self.password(user)?.to_owned();
        Some(NatsOptions {
            user: Some(user.to_owned()),
            password: Some(password),
            inbox_prefix: Some(format!("_INBOX.{user}")),
            ..NatsOptions::new(url)
        })
    }

    /// Gives a hub its two identities on the server at `url`.
    #[must_use]
    pub fn identify(&self, url: &str, options: Options) -> Options {
        Options {
            nats: self.nats_options(ANSWERS, url).unwrap_or_else(|| options.nats.clone()),
            nats_writer: self.nats_options(WRITES, url),
            ..options
        }
    }
}

/// The first key of a nats-server's configuration that would put other users in the place of these.
#[must_use]
pub fn users_of(config: &str) -> Option<&str> {
    let keys = config
        .lines()
        .filter_map(|line| line.trim_start().split(|c: char| !c.is_ascii_alphabetic() && c != '_').next());
    keys.into_iter().find(|key| {
        ["accounts", "authorization", "no_auth_user", "operator", "resolver"].contains(&key.to_lowercase().as_str())
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::wire::bucket::Bucket;
    use crate::wire::event;

    #[test]
    fn each_user_has_a_password_of_its_own() {
        let roles = Roles::generate().unwrap();
        let users: Vec<_> = roles.users().collect();
        assert_eq!(users, [ANSWERS, WRITES, "tick-aggregator", "operator", "reader", "health"]);
        let mut passwords: Vec<_> = users.iter().filter_map(|user| roles.password(user)).collect();
        passwords.sort_unstable();
        passwords.dedup();
        assert_eq!(passwords.len(), users.len());
        assert_eq!(roles.config().matches('$').count(), ROLES.matches('$').count(), "no variable lost its place");
        assert!(roles.open_config().contains("{ user: developer }"), "the list of users was found");
        let shown = format!("{roles:?}");
        assert!(passwords.iter().all(|password| !shown.contains(password)), "{shown}");
    }

    #[test]
    fn the_writer_may_write_whatever_the_hub_publishes() {
        let subjects = Bucket::ALL.map(|bucket| format!("$KV.{}.>", bucket.name("hub")));
        let streams = Bucket::ALL.map(|bucket| bucket.stream("hub")).into_iter().chain([event::stream_name("hub")]);
        let calls = streams.map(|stream| format!("$JS.API.STREAM.CREATE.{stream}"));
        for subject in subjects.into_iter().chain(calls) {
            assert!(ROLES.contains(&format!("\"{subject}\"")), "{subject}");
        }
    }

    #[test]
    fn keys_that_bring_other_users_are_told() {
        assert_eq!(users_of("max_payload: 2MB\n  Authorization { token: x }\n"), Some("Authorization"));
        assert_eq!(users_of("accounts: {}"), Some("accounts"));
        assert_eq!(users_of("http_port: 8222\n# authorization\n"), None);
    }
}
