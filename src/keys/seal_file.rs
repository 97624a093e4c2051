//! The file with the key that seals manifests: PEM, so that `openssl` reads it. The first private key signs; the public keys behind it are
//! those that it has replaced, whose seals still count. A comment before each says when it was made.

use std::path::Path;

use secrecy::{ExposeSecret, SecretString};

use super::{KeyError, SECRET_BYTES, random, read_private, replace, write_new};
use crate::{
    clock::{Clock, Timestamp},
    transform::seal::{InvalidSealKey, PublicKey, SealKey, Seals},
};

const CREATED: &str = "# created: ";
const FIRST: &str = "# first: nothing of this installation was made before it";
const TIME: &str = "%Y-%m-%dT%H:%M:%SZ";

/// Makes the file with the key of this seed. Gives the public half.
///
/// `is_first`: the installation is new, and sealed its backups from the beginning. Then nothing without a seal can be an older one of its own,
/// whatever a control plane or a storage says of its time.
///
/// # Errors
/// There is one already, or it cannot be written.
pub fn generate_seal_file(
    path: &Path,
    seed: [u8; SECRET_BYTES],
    clock: &Clock,
    is_first: bool,
) -> Result<PublicKey, KeyError> {
    let key = SealKey::from_seed(seed).map_err(|error| invalid(path, &error))?;
    write_new(path, text(&key, &[], clock, is_first).expose_secret().as_bytes())?;
    Ok(key.public())
}

/// Puts a new random key before the one that signs now, whose public half stays accepted and whose private half is gone. Gives both.
///
/// # Errors
/// The file cannot be read or replaced; then it is as it was.
pub fn rotate_seal_file(path: &Path, clock: &Clock) -> Result<(PublicKey, PublicKey), KeyError> {
    let found = parse(path)?;
    let mut seed = [0; SECRET_BYTES];
    random(&mut seed)?;
    let key = SealKey::from_seed(seed).map_err(|error| invalid(path, &error))?;
    let old = found.signing.public();
    let mut accepted = vec![(old, found.created)];
    accepted.extend(found.accepted);
    replace(path, text(&key, &accepted, clock, found.is_first).expose_secret().as_bytes())?;
    Ok((key.public(), old))
}

/// Loads the file, and warns when others may read it.
///
/// # Errors
/// It cannot be read, or holds no key.
pub fn load_seals(path: &Path) -> Result<Seals, KeyError> {
    let found = parse(path)?;
    // Unknown for one of them is unknown for all: then nothing without a seal is taken for older.
    let times: Option<Vec<Timestamp>> =
        std::iter::once(found.created).chain(found.accepted.iter().map(|(_, created)| *created)).collect();
    let since = times.filter(|_| !found.is_first).and_then(|times| times.into_iter().min());
    let accepted = found.accepted.into_iter().map(|(key, _)| key).collect();
    Ok(Seals::new(Some(found.signing), accepted, since))
}

fn text(key: &SealKey, accepted: &[(PublicKey, Option<Timestamp>)], clock: &Clock, is_first: bool) -> SecretString {
    let first = if is_first { format!("{FIRST}\n") } else { String::new() };
    let mut text = format!(
        "{first}{CREATED}{}\n# key {}: seals manifests\n{}",
        clock.now().format(TIME),
        key.public().id(),
        // Written to the file that this function is for.
        key.to_pem().expose_secret()
    );
    for (old, created) in accepted {
        if let Some(created) = created {
            text.push_str(&format!("{CREATED}{}\n", created.format(TIME)));
        }
        text.push_str(&format!("# key {}: replaced, its seals still count\n{}", old.id(), old.to_pem()));
    }
    SecretString::from(text)
}

fn invalid(path: &Path, reason: &InvalidSealKey) -> KeyError {
    KeyError::Invalid { path: path.to_owned(), reason: reason.to_string() }
}

struct Found {
    signing: SealKey,
    created: Option<Timestamp>,
    accepted: Vec<(PublicKey, Option<Timestamp>)>,
    is_first: bool,
}

fn parse(path: &Path) -> Result<Found, KeyError> {
    let text = read_private(path)?;
    let wrong = |reason| invalid(path, &InvalidSealKey(reason));
    let (mut signing, mut accepted, mut created, mut is_first) = (None, Vec::new(), None, false);
    let mut lines = text.expose_secret().lines().map(str::trim);
    while let Some(line) = lines.next() {
        let kind = line.strip_prefix("-----BEGIN ").and_then(|rest| rest.strip_suffix("-----"));
        if let Some(at) = line.strip_prefix(CREATED) {
            created = at.parse().ok();
        }
        is_first |= line == FIRST;
        let Some(kind) = kind else { continue };
        let end = format!("-----END {kind}-----");
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != end).collect();
        let body = SecretString::from(body.concat());
        let body = body.expose_secret();
        match kind {
            "PRIVATE KEY" if signing.is_none() => {
                let key = SealKey::from_pem_body(body).map_err(|error| invalid(path, &error))?;
                signing = Some((key, created.take()));
            }
            "PUBLIC KEY" => {
                let key = body.parse().map_err(|error| invalid(path, &error))?;
                accepted.push((key, created.take()));
            }
            _ => return Err(wrong("expected one private key and the public keys that it has replaced")),
        }
    }
    let (signing, created) = signing.ok_or_else(|| wrong("there is no private key in it"))?;
    Ok(Found { signing, created, accepted, is_first })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_key_is_accepted_and_only_the_new_one_signs() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        let early = Clock::fixed("2026-11-21T02:00:00Z".parse().unwrap());
        let first = generate_seal_file(&path, [1; 32], &early, false).unwrap();
        assert!(matches!(generate_seal_file(&path, [1; 32], &early, false), Err(KeyError::Exists(_))));
        let loaded = load_seals(&path).unwrap();
        assert_eq!((loaded.key().unwrap().public(), loaded.since()), (first, Some(early.now())));

        let late = Clock::fixed("2027-01-01T00:00:00Z".parse().unwrap());
        let (second, old) = rotate_seal_file(&path, &late).unwrap();
        assert_eq!(old, first);
        let (third, _) = rotate_seal_file(&path, &late).unwrap();
        let seals = load_seals(&path).unwrap();
        assert_eq!(seals.accepted().collect::<Vec<_>>(), [third, second, first]);
        assert_eq!((seals.key().unwrap().public(), seals.since()), (third, Some(early.now())));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.matches("PRIVATE KEY").count(), 2, "one of them, with its two lines: {text}");
        assert!(!super::super::others_may_read(&path).unwrap());
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn where_the_first_key_is_as_old_as_the_installation_nothing_is_older() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        let clock = Clock::fixed("2026-11-21T02:00:00Z".parse().unwrap());
        generate_seal_file(&path, [1; 32], &clock, true).unwrap();
        assert_eq!(load_seals(&path).unwrap().since(), None);
        rotate_seal_file(&path, &clock).unwrap();
        let seals = load_seals(&path).unwrap();
        assert_eq!((seals.since(), seals.accepted().count()), (None, 2), "also when it has been replaced");
    }

    #[test]
    fn a_file_that_openssl_made_is_taken_and_any_other_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("seal.key");
        let made = std::process::Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(&path)
            .output()
            .expect("openssl is installed");
        assert!(made.status.success());
        let seals = load_seals(&path).unwrap();
        assert!(seals.since().is_none(), "it does not say when it was made");
        let public =
            std::process::Command::new("openssl").args(["pkey", "-pubout", "-in"]).arg(&path).output().unwrap();
        assert_eq!(String::from_utf8(public.stdout).unwrap(), seals.key().unwrap().public().to_pem());
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [
            String::new(),
            "canary".into(),
            good.replace("MC4C", "MC4D"),
            good.repeat(2),
            good.replace("PRIVATE", "RSA PRIVATE"),
        ] {
            std::fs::write(&path, bad).unwrap();
            let error = load_seals(&path).unwrap_err();
            assert_eq!(error.code(), "key.invalid");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
