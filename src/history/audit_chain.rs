//! The chain of the audit trail. Every entry of `backup_history` gets a place and a digest over the entry before it and everything that
//! it says itself, made with a key that the database does not have.
//!
//! Entries are written by many transactions at once, by older versions and by platforms. So they are not linked where they are written,
//! which would make all writers wait for each other, but soon afterwards, by whichever worker comes first, one at a time: the row of
//! `audit_head` is the lock. Places are given as entries are found; a transaction that commits late is linked late, and nothing is passed
//! over, because what is not linked yet is known by its empty place and not by its id.
//!
//! What always holds: an entry that is linked never changes; places have no gaps; head, places and digests change in one transaction.

use aws_lc_rs::hmac;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::db;

/// Bytes of a digest.
pub const DIGEST_BYTES: usize = 32;

/// What every digest begins with: the version of its form.
const FORM: &[u8] = b"holdfast audit entry 1";

/// Why the chain could not be read or made longer.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("the row of control_plane.audit_head is gone")]
    NoHead,
    #[error("the audit trail was linked with the key {theirs}, and this installation has the key {ours}")]
    OtherKey { ours: String, theirs: String },
    /// Somebody else's hand: what was linked before is not as it was left.
    #[error("the audit trail cannot be continued: {0}")]
    Disturbed(&'static str),
    #[error("control plane: {0}")]
    Database(#[from] sqlx::Error),
}

/// The key that links.
#[derive(Clone, Debug)]
pub struct ChainKey(hmac::Key);

impl ChainKey {
    /// What to derive the key for, of the installation's secrets key.
    pub const PURPOSE: &'static str = "audit chain";

    pub fn new(bytes: [u8; DIGEST_BYTES]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    /// By what the key is known, in hexadecimal digits. Tells nothing of the key.
    pub fn id(&self) -> String {
        hex(&self.id_bytes())
    }

    pub(super) fn id_bytes(&self) -> [u8; 8] {
        let mut id = [0u8; 8];
        id.copy_from_slice(&self.tag(&[b"holdfast audit key"])[..8]);
        id
    }

    /// In the place of the digest before the first entry's: a chain cannot be passed off as another.
    pub(super) fn beginning(&self, chain: Uuid) -> [u8; DIGEST_BYTES] {
        self.tag(&[b"holdfast audit chain", chain.as_bytes()])
    }

    /// The digest of an entry in this place.
    pub(super) fn digest(&self, place: &Place, content: &Content) -> [u8; DIGEST_BYTES] {
        self.tag(&[FORM, &place.sequence.to_be_bytes(), &place.previous, &place.linked_at, &content.encoded()])
    }

    /// Over the parts, each with its length before it.
    fn tag(&self, parts: &[&[u8]]) -> [u8; DIGEST_BYTES] {
        let mut context = hmac::Context::with_key(&self.0);
        for part in parts {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part);
        }
        let mut digest = [0u8; DIGEST_BYTES];
        digest.copy_from_slice(context.sign().as_ref());
        digest
    }
}

/// Where in the chain an entry stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub sequence: i64,
    /// The digest of the entry before.
    pub previous: Vec<u8>,
    /// When it was linked, as PostgreSQL sends an instant: it does not depend on a time zone.
    pub linked_at: Vec<u8>,
}

/// Everything that an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub id: i64,
    pub backup_id: Option<Uuid>,
    pub project_id: Option<String>,
    pub organization_id: Option<String>,
    /// As PostgreSQL sends an instant.
    pub at: Vec<u8>,
    pub event: String,
    pub actor: String,
    pub address: Option<String>,
    pub outcome: String,
    /// As PostgreSQL writes `jsonb`: equal values are equal texts.
    pub detail: String,
}

impl Content {
    /// Fields in a fixed order, each with its length; one that is not there is told from an empty one.
    fn encoded(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256 + self.detail.len());
        let mut put = |field: Option<&[u8]>| match field {
            None => bytes.push(0),
            Some(field) => {
                bytes.push(1);
                bytes.extend_from_slice(&(field.len() as u64).to_be_bytes());
                bytes.extend_from_slice(field);
            }
        };
        put(Some(&self.id.to_be_bytes()));
        put(self.backup_id.as_ref().map(|id| id.as_bytes().as_slice()));
        put(self.project_id.as_deref().map(str::as_bytes));
        put(self.organization_id.as_deref().map(str::as_bytes));
        put(Some(&self.at));
        put(Some(self.event.as_bytes()));
        put(Some(self.actor.as_bytes()));
        put(self.address.as_deref().map(str::as_bytes));
        put(Some(self.outcome.as_bytes()));
        put(Some(self.detail.as_bytes()));
        bytes
    }
}

/// Where a chain ended when it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    pub chain_id: Uuid,
    /// Number of entries that are linked.
    pub sequence: i64,
    /// Of the last one.
    pub digest: [u8; DIGEST_BYTES],
}

/// Links up to `limit` entries that are not linked yet, oldest id first. Safe to call from several processes at once.
///
/// # Errors
/// The chain is not as it was left, or was made with another key. Nothing was changed then.
pub async fn link(pool: &PgPool, key: &ChainKey, limit: i64) -> Result<usize, ChainError> {
    let is_something_to_do: bool = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM control_plane.backup_history WHERE sequence IS NULL) AS "is!""#
    )
    .fetch_one(pool)
    .await?;
    if !is_something_to_do {
        return Ok(0);
    }
    let mut transaction = db::begin(pool).await?;
    let linked = link_in(&mut transaction, key, limit).await?;
    transaction.commit().await?;
    Ok(linked)
}

async fn link_in(connection: &mut PgConnection, key: &ChainKey, limit: i64) -> Result<usize, ChainError> {
    let head = sqlx::query!(
        r#"SELECT chain_id, sequence, digest, key_id, timestamptz_send(now()) AS "now!" FROM control_plane.audit_head FOR UPDATE"#
    )
    .fetch_optional(&mut *connection)
    .await?
    .ok_or(ChainError::NoHead)?;
    refuse_other_key(key, head.key_id.as_deref())?;
    let mut previous = match (head.sequence, head.digest) {
        (0, None) => key.beginning(head.chain_id).to_vec(),
        (1.., Some(digest)) => digest,
        _ => return Err(ChainError::Disturbed("the head has no digest, or one without an entry")),
    };
    // Locked, so that what is linked is what is there.
    let rows = sqlx::query_as!(
        Content,
        r#"SELECT id, backup_id, project_id, organization_id, timestamptz_send(at) AS "at!", event, actor, address, outcome,
                detail::text AS "detail!"
         FROM control_plane.backup_history WHERE sequence IS NULL ORDER BY id LIMIT $1 FOR UPDATE"#,
        limit,
    )
    .fetch_all(&mut *connection)
    .await?;
    let (mut ids, mut sequences, mut befores, mut digests) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let mut sequence = head.sequence;
    for content in &rows {
        sequence += 1;
        let place = Place { sequence, previous, linked_at: head.now.clone() };
        let digest = key.digest(&place, content).to_vec();
        ids.push(content.id);
        sequences.push(sequence);
        befores.push(place.previous);
        digests.push(digest.clone());
        previous = digest;
    }
    if rows.is_empty() {
        return Ok(0);
    }
    sqlx::query!(
        "UPDATE control_plane.backup_history h
         SET sequence = l.sequence, previous_digest = l.previous, digest = l.digest, linked_at = now()
         FROM unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[]) AS l (id, sequence, previous, digest) WHERE h.id = l.id",
        &ids,
        &sequences,
        &befores,
        &digests,
    )
    .execute(&mut *connection)
    .await
    .map_err(|error| match error.as_database_error() {
        Some(database) if database.is_unique_violation() => {
            ChainError::Disturbed("there are linked entries beyond the head")
        }
        _ => error.into(),
    })?;
    sqlx::query!(
        "UPDATE control_plane.audit_head SET sequence = $1, digest = $2, key_id = $3, linked_at = now()",
        sequence,
        previous,
        &key.id_bytes()[..],
    )
    .execute(connection)
    .await?;
    Ok(rows.len())
}

pub(super) fn refuse_other_key(key: &ChainKey, theirs: Option<&[u8]>) -> Result<(), ChainError> {
    match theirs {
        Some(theirs) if theirs != key.id_bytes() => Err(ChainError::OtherKey { ours: key.id(), theirs: hex(theirs) }),
        Some(_) | None => Ok(()),
    }
}

/// Where the chain ends now. `None` before the first entry is linked.
///
/// # Errors
/// The head is gone, or the database does not answer.
pub async fn chain_head(pool: &PgPool) -> Result<Option<Head>, ChainError> {
    let row = sqlx::query!("SELECT chain_id, sequence, digest FROM control_plane.audit_head")
        .fetch_optional(pool)
        .await?
        .ok_or(ChainError::NoHead)?;
    let Some(digest) = row.digest else { return Ok(None) };
    let digest = digest.try_into().map_err(|_| ChainError::Disturbed("the head's digest is none"))?;
    Ok(Some(Head { chain_id: row.chain_id, sequence: row.sequence, digest }))
}

/// Forgets every link, so that the entries that are there are linked anew, with this key. For an installation that has lost its key, or
/// whose control plane was put back from a backup: what the old chain would have shown can be shown no more. Returns how many were linked.
///
/// # Errors
/// The database does not answer.
pub async fn forget_links(connection: &mut PgConnection) -> Result<i64, ChainError> {
    // Whoever links now ends first.
    sqlx::query!("INSERT INTO control_plane.audit_head DEFAULT VALUES ON CONFLICT DO NOTHING")
        .execute(&mut *connection)
        .await?;
    sqlx::query!("SELECT sequence FROM control_plane.audit_head FOR UPDATE").fetch_one(&mut *connection).await?;
    let forgotten = sqlx::query!(
        "UPDATE control_plane.backup_history SET sequence = NULL, previous_digest = NULL, digest = NULL, linked_at = NULL
         WHERE sequence IS NOT NULL"
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "UPDATE control_plane.audit_head
         SET chain_id = gen_random_uuid(), sequence = 0, digest = NULL, key_id = NULL, linked_at = NULL"
    )
    .execute(connection)
    .await?;
    Ok(i64::try_from(forgotten.rows_affected()).unwrap_or(i64::MAX))
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What [`hex`] wrote.
pub(super) fn unhex(text: &str) -> Option<[u8; DIGEST_BYTES]> {
    text.parse::<crate::artifact::Sha256Digest>().ok().map(|digest| digest.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content() -> Content {
        Content {
            id: 7,
            backup_id: None,
            project_id: Some("acme".to_owned()),
            organization_id: None,
            at: vec![0; 8],
            event: "requested".to_owned(),
            actor: "alice".to_owned(),
            address: None,
            outcome: "ok".to_owned(),
            detail: "{}".to_owned(),
        }
    }

    fn place() -> Place {
        Place { sequence: 1, previous: vec![1; 32], linked_at: vec![2; 8] }
    }

    #[test]
    fn a_digest_depends_on_the_key_and_every_part_of_an_entry_and_its_place() {
        let key = ChainKey::new([7; 32]);
        let whole = key.digest(&place(), &content());
        assert_eq!(whole, key.digest(&place(), &content()));
        assert_ne!(whole, ChainKey::new([8; 32]).digest(&place(), &content()));
        let changes: [fn(&mut Content); 10] = [
            |c| c.id = 8,
            |c| c.backup_id = Some(Uuid::nil()),
            |c| c.project_id = None,
            |c| c.organization_id = Some(String::new()),
            |c| c.at[7] = 1,
            |c| c.event.push('x'),
            |c| c.actor.clear(),
            |c| c.address = Some(String::new()),
            |c| c.outcome = "failed".to_owned(),
            |c| c.detail = "[]".to_owned(),
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut altered = content();
            change(&mut altered);
            assert_ne!(whole, key.digest(&place(), &altered), "field {number}");
        }
        for altered in [
            Place { sequence: 2, ..place() },
            Place { previous: vec![3; 32], ..place() },
            Place { linked_at: vec![3; 8], ..place() },
        ] {
            assert_ne!(whole, key.digest(&altered, &content()));
        }
    }

    #[test]
    fn what_moves_from_one_field_to_the_next_makes_another_digest() {
        let key = ChainKey::new([7; 32]);
        let (mut one, mut other) = (content(), content());
        (one.event, one.actor) = ("ab".to_owned(), "c".to_owned());
        (other.event, other.actor) = ("a".to_owned(), "bc".to_owned());
        assert_ne!(key.digest(&place(), &one), key.digest(&place(), &other));
    }
}
