//! A look at the whole chain of the audit trail: whether every entry is there, as it was, where it was.

use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use super::audit_chain::{ChainError, ChainKey, Content, Head, Place, hex, refuse_other_key};
use crate::db;

/// Entries that are fetched at once.
const BATCH: i64 = 5_000;

/// Wrong entries that are kept to see whether they have changed places.
const KEPT: usize = 64;

/// What is wrong with an entry, or with the chain at its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrong {
    /// The entry is not what was linked.
    Altered,
    /// There is no entry in this place any more.
    Removed,
    /// The entry was linked in another place.
    Reordered,
    /// Nobody with the key has linked the entry.
    Inserted,
    /// The chain ends before a place that it had reached.
    Truncated,
    /// The chain is another than the one that was remembered, or its head is not its last entry.
    Rewritten,
}

impl Wrong {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Altered => "altered",
            Self::Removed => "removed",
            Self::Reordered => "reordered",
            Self::Inserted => "inserted",
            Self::Truncated => "truncated",
            Self::Rewritten => "rewritten",
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub wrong: Wrong,
    /// The place in the chain.
    pub sequence: i64,
    /// `backup_history.id` of the entry, where there is one.
    pub entry_id: Option<i64>,
    pub message: String,
}

/// What a look at the chain has shown.
#[derive(Clone, Debug, Serialize)]
pub struct Verified {
    pub is_whole: bool,
    pub chain_id: Uuid,
    pub key_id: String,
    /// Entries that were looked at.
    pub entries: i64,
    /// Places at which something is wrong.
    pub wrong_places: i64,
    /// The first of them.
    pub first: Option<Finding>,
    /// Entries that no worker has linked yet, and the oldest of them.
    pub unlinked: i64,
    pub oldest_unlinked: Option<DateTime<Utc>>,
    /// Entries that were linked more than an hour after the time that they name: written by hand, or while no worker ran.
    pub late: i64,
    /// The place and the digest at which the chain ends, to be kept elsewhere and compared another time.
    pub head: Option<String>,
    /// Remembered heads that the chain was compared with.
    pub remembered: usize,
}

/// A linked entry, as it is read.
struct Row {
    sequence: i64,
    previous: Option<Vec<u8>>,
    digest: Option<Vec<u8>>,
    linked_at: Option<Vec<u8>>,
    is_late: bool,
    content: Content,
}

impl Row {
    fn place(&self) -> Place {
        Place {
            sequence: self.sequence,
            previous: self.previous.clone().unwrap_or_default(),
            linked_at: self.linked_at.clone().unwrap_or_default(),
        }
    }

    fn has_digest_of(&self, key: &ChainKey, content: &Content) -> bool {
        self.digest.as_deref().is_some_and(|digest| digest == key.digest(&self.place(), content))
    }
}

/// Looks at every entry, in one snapshot, and compares the chain with heads that were remembered outside the database.
///
/// # Errors
/// The chain was made with another key, its head is gone, or the database does not answer.
pub async fn verify_chain(pool: &PgPool, key: &ChainKey, remembered: &[Head]) -> Result<Verified, ChainError> {
    let mut transaction = db::begin(pool).await?;
    sqlx::query!("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY").execute(&mut *transaction).await?;
    let head = sqlx::query!("SELECT chain_id, sequence, digest, key_id FROM control_plane.audit_head")
        .fetch_optional(&mut *transaction)
        .await?
        .ok_or(ChainError::NoHead)?;
    refuse_other_key(key, head.key_id.as_deref())?;
    let mut look = Look::new(key, head.chain_id, head.sequence, remembered);
    let mut after = (i64::MIN, i64::MIN);
    loop {
        let rows = rows(&mut transaction, after).await?;
        let Some(last) = rows.last() else { break };
        after = (last.sequence, last.content.id);
        for row in rows {
            look.at(row);
        }
    }
    look.end(head.chain_id, head.digest.as_deref());
    let unlinked = sqlx::query!(
        r#"SELECT count(*) AS "count!", min(at) AS oldest FROM control_plane.backup_history WHERE sequence IS NULL"#
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let first = look.first();
    Ok(Verified {
        is_whole: first.is_none(),
        chain_id: head.chain_id,
        key_id: key.id(),
        entries: look.entries,
        wrong_places: look.wrong_places,
        first,
        unlinked: unlinked.count,
        oldest_unlinked: unlinked.oldest,
        late: look.late,
        head: head.digest.map(|digest| format!("{}:{}", head.sequence, hex(&digest))),
        remembered: remembered.len(),
    })
}

async fn rows(connection: &mut PgConnection, after: (i64, i64)) -> Result<Vec<Row>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"SELECT id, backup_id, project_id, organization_id, timestamptz_send(at) AS "at!", event, actor, address, outcome,
                detail::text AS "detail!", sequence AS "sequence!", previous_digest, digest, timestamptz_send(linked_at) AS linked_at,
                coalesce(linked_at > at + interval '1 hour', false) AS "is_late!"
         FROM control_plane.backup_history WHERE sequence IS NOT NULL AND (sequence, id) > ($1, $2) ORDER BY sequence, id LIMIT $3"#,
        after.0,
        after.1,
        BATCH,
    )
    .fetch_all(connection)
    .await?;
    let row = rows.into_iter().map(|row| Row {
        sequence: row.sequence,
        previous: row.previous_digest,
        digest: row.digest,
        linked_at: row.linked_at,
        is_late: row.is_late,
        content: Content {
            id: row.id,
            backup_id: row.backup_id,
            project_id: row.project_id,
            organization_id: row.organization_id,
            at: row.at,
            event: row.event,
            actor: row.actor,
            address: row.address,
            outcome: row.outcome,
            detail: row.detail,
        },
    });
    Ok(row.collect())
}

/// What has been seen so far.
struct Look<'a> {
    key: &'a ChainKey,
    /// Where the chain ends, as its head says.
    head: i64,
    /// Where the last entry stood, and its digest as it is written.
    last: (i64, Vec<u8>),
    entries: i64,
    late: i64,
    wrong_places: i64,
    /// What is wrong first.
    finding: Option<Finding>,
    /// Entries that are not what was linked.
    wrong_rows: Vec<Row>,
    /// Heads that were remembered.
    remembered: &'a [Head],
}

impl<'a> Look<'a> {
    fn new(key: &'a ChainKey, chain: Uuid, head: i64, remembered: &'a [Head]) -> Self {
        Self {
            key,
            head,
            last: (0, key.beginning(chain).to_vec()),
            entries: 0,
            late: 0,
            wrong_places: 0,
            finding: None,
            wrong_rows: Vec::new(),
            remembered,
        }
    }

    fn found(&mut self, wrong: Wrong, sequence: i64, entry_id: Option<i64>, message: String) {
        self.wrong_places += 1;
        if self.finding.as_ref().is_none_or(|first| sequence < first.sequence) {
            self.finding = Some(Finding { wrong, sequence, entry_id, message });
        }
    }

    fn at(&mut self, row: Row) {
        self.entries += 1;
        self.late += i64::from(row.is_late);
        let (expected, id) = (self.last.0 + 1, Some(row.content.id));
        if row.sequence < expected {
            return self.found(Wrong::Inserted, row.sequence, id, "a second entry stands in this place".to_owned());
        }
        let is_next = row.sequence == expected;
        if !is_next {
            let missing = row.sequence - expected;
            let message = format!("{missing} entries from here on are not there any more");
            self.found(Wrong::Removed, expected, None, message);
        }
        let is_other = |head: &Head| head.sequence == row.sequence && row.digest.as_deref() != Some(&head.digest[..]);
        if self.remembered.iter().any(is_other) {
            let message = "another digest was remembered for this place outside the database".to_owned();
            self.found(Wrong::Rewritten, row.sequence, id, message);
        }
        let digest = row.digest.clone().unwrap_or_default();
        if !row.has_digest_of(self.key, &row.content) {
            let (wrong, message) = if row.sequence > self.head {
                (Wrong::Inserted, "the entry has a place beyond the head, and was never linked")
            } else {
                (Wrong::Altered, "the entry is not what was linked in this place")
            };
            self.found(wrong, row.sequence, id, message.to_owned());
            self.last = (row.sequence, digest);
            if self.wrong_rows.len() < KEPT {
                self.wrong_rows.push(row);
            }
            return;
        }
        if is_next && row.previous.as_deref() != Some(&self.last.1) {
            let message = "the entry was linked after another than the one before it".to_owned();
            self.found(Wrong::Reordered, row.sequence, id, message);
        }
        self.last = (row.sequence, digest);
    }

    /// Compares the last entry with the head, and with what was remembered beyond it.
    fn end(&mut self, chain: Uuid, digest: Option<&[u8]>) {
        let (last, head) = (self.last.0, self.head);
        if last < head {
            let message = format!("the chain ends here, and had reached {head}");
            self.found(Wrong::Truncated, last + 1, None, message);
        } else if last > head {
            let message = format!("there are entries up to {last}, and the head says {head}");
            self.found(Wrong::Rewritten, head + 1, None, message);
        } else if last > 0 && digest != Some(&self.last.1) {
            self.found(Wrong::Rewritten, last, None, "the head has another digest than the last entry".to_owned());
        }
        if let Some(reached) = self.remembered.iter().map(|head| head.sequence).max().filter(|reached| *reached > last)
        {
            let message =
                format!("the chain ends here, and had reached {reached} as was remembered outside the database");
            self.found(Wrong::Truncated, last + 1, None, message);
        }
        if let Some(other) = self.remembered.iter().find(|head| head.chain_id != chain) {
            let message = format!("another chain, {}, was remembered outside the database", other.chain_id);
            self.found(Wrong::Rewritten, 0, None, message);
        }
    }

    /// What is wrong first. An entry that is right for a place where another wrong one stands has changed places with it; one whose
    /// place was never reached was put in.
    fn first(&self) -> Option<Finding> {
        let mut finding = self.finding.clone()?;
        let Some(row) = self.wrong_rows.iter().find(|row| Some(row.content.id) == finding.entry_id) else {
            return Some(finding);
        };
        let others = self.wrong_rows.iter().filter(|other| other.content.id != row.content.id);
        let own_place = others.clone().find(|other| other.has_digest_of(self.key, &row.content));
        if let Some(place) = own_place {
            finding.wrong = Wrong::Reordered;
            finding.message = format!("the entry was linked in place {}", place.sequence);
        } else if row.digest.is_none() || row.previous.is_none() || row.linked_at.is_none() {
            finding.wrong = Wrong::Inserted;
            finding.message = "the entry has a place and was never linked".to_owned();
        }
        Some(finding)
    }
}
