//! Certificates for servers on this machine, made with the openssl program, which every machine with PostgreSQL has.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use central_hub::cli::stack::Account;

/// A folder with a certificate authority (`ca`), what it signed (`server` for localhost and 127.0.0.1, `elsewhere` for
/// another host, `client`), and an authority that signed none of it (`stranger`). Each is NAME.pem with NAME.key.
pub struct Certificates(tempfile::TempDir);

impl Certificates {
    pub fn make() -> Certificates {
        let made = Certificates(tempfile::tempdir().unwrap());
        // The servers may run as another user.
        std::fs::set_permissions(made.0.path(), PermissionsExt::from_mode(0o755)).unwrap();
        for name in ["ca", "stranger"] {
            let subject = format!("/CN=central-hub tests {name}");
            made.openssl(&format!("req -x509 -out {name}.pem -days 2"), name, &subject);
        }
        for (name, extensions) in [
            ("server", "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"),
            ("elsewhere", "subjectAltName=DNS:elsewhere.example\nextendedKeyUsage=serverAuth\n"),
            ("client", "subjectAltName=DNS:client.example\nextendedKeyUsage=clientAuth\n"),
        ] {
            std::fs::write(made.path("extensions"), extensions).unwrap();
            made.openssl("req -new -out request.pem", name, &format!("/CN={name}"));
            let signed = format!(
                "x509 -req -in request.pem -CA ca.pem -CAkey ca.key -CAcreateserial -extfile extensions -days 2 -out {name}.pem"
            );
            made.run(signed.split(' '));
        }
        made
    }

    /// `NAME.pem`, `NAME.key`.
    pub fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The same as text, for a configuration or the environment.
    pub fn text(&self, file: &str) -> String {
        self.path(file).to_str().unwrap().to_owned()
    }

    /// Lets the user that servers run as read the key, and nobody else: PostgreSQL insists on that.
    pub fn give_key_to_servers(&self, file: &str) {
        let path = self.path(file);
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        if let Some(account) = Account::unprivileged().unwrap() {
            std::os::unix::fs::chown(path, Some(account.uid), Some(account.gid)).unwrap();
        }
    }

    fn openssl(&self, request: &str, name: &str, subject: &str) {
        let key = format!("-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {name}.key -subj");
        self.run(request.split(' ').chain(key.split(' ')).chain([subject]));
        std::fs::set_permissions(self.path(&format!("{name}.key")), PermissionsExt::from_mode(0o644)).unwrap();
    }

    fn run<'a>(&self, args: impl Iterator<Item = &'a str>) {
        let args: Vec<&str> = args.collect();
        let run = Command::new("openssl").args(&args).current_dir(self.0.path()).output().expect("openssl");
        assert!(run.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&run.stderr));
    }
}

/// The program's path is no secret, but what a file holds may be.
pub fn secret_file(folder: &Path, name: &str, secret: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, format!("{secret}\n")).unwrap();
    path.to_str().unwrap().to_owned()
}
