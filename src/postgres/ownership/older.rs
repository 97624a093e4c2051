//! Records from servers of an older major version, in the words of the one that they come back to.

use std::borrow::Cow;

use crate::manifest::{Grant, ObjectOwnership};

/// The first version with MAINTAIN (VACUUM, ANALYZE, REINDEX, REFRESH MATERIALIZED VIEW and others). Source: release notes of 17.
const MAINTAIN_SINCE: u32 = 170_000;

/// What `ALL` on a table was before. Source: src/include/utils/acl.h of version 16, `ACL_ALL_RIGHTS_RELATION`.
const ALL_BEFORE: [&str; 7] = ["SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"];

/// The record as a server of version `now` means it.
///
/// Once there is MAINTAIN, an owner whose table has an access list needs it there, to refresh a view of his own. So whoever had every
/// privilege on a table has this one too; the `GRANT ALL` that `pg_dump` writes for such a list does the same.
pub(super) fn in_words_of(now: u32, ownership: &[ObjectOwnership], recorded_on: u32) -> Cow<'_, [ObjectOwnership]> {
    if recorded_on >= MAINTAIN_SINCE || now < MAINTAIN_SINCE {
        return ownership.into();
    }
    let mut ownership = ownership.to_vec();
    for object in ownership.iter_mut().filter(|object| is_table(object)) {
        if let Some(grants) = &mut object.grants {
            add_maintain(grants);
        }
    }
    ownership.into()
}

fn is_table(object: &ObjectOwnership) -> bool {
    match object.kind.as_str() {
        "table" | "view" | "materialized view" | "foreign table" => true,
        "default acl" => object.identity.ends_with(" on tables"),
        _ => false,
    }
}

fn add_maintain(grants: &mut Vec<Grant>) {
    let named = |grant: &Grant, privilege: &str| Grant { privilege: privilege.to_owned(), ..grant.clone() };
    let holds_all = |grant: &Grant| ALL_BEFORE.iter().all(|privilege| grants.contains(&named(grant, privilege)));
    let one_each = grants.iter().filter(|grant| grant.column.is_none() && grant.privilege == ALL_BEFORE[0]);
    let new: Vec<Grant> = one_each.filter(|grant| holds_all(grant)).map(|grant| named(grant, "MAINTAIN")).collect();
    for maintain in new {
        // Where the server lists it: behind its holder's others.
        let is_same =
            |g: &Grant| g.column.is_none() && (&g.grantee, &g.grantor) == (&maintain.grantee, &maintain.grantor);
        let at = grants.iter().rposition(is_same).map_or(grants.len(), |last| last + 1);
        grants.insert(at, maintain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grants(grantee: &str, privileges: &[&str], grantable: bool) -> Vec<Grant> {
        let grant = |privilege: &&str| Grant {
            column: None,
            grantee: Some(grantee.to_owned()),
            grantor: "owner".to_owned(),
            privilege: (*privilege).to_owned(),
            grantable,
        };
        privileges.iter().map(grant).collect()
    }

    fn of(kind: &str, grants: Option<Vec<Grant>>) -> ObjectOwnership {
        ObjectOwnership { kind: kind.into(), identity: "s.t".into(), owner: "owner".into(), grants, code: None }
    }

    #[test]
    fn who_had_everything_on_a_table_may_maintain_it() {
        let all =
            [grants("owner", &ALL_BEFORE, false), grants("app", &ALL_BEFORE, true), grants("x", &["SELECT"], false)];
        let record =
            [of("materialized view", Some(all.concat())), of("table", None), of("sequence", Some(all.concat()))];
        let with =
            [all[0].clone(), grants("owner", &["MAINTAIN"], false), all[1].clone(), grants("app", &["MAINTAIN"], true)];
        let expected = [with.concat(), all[2].clone()].concat();
        let read = in_words_of(180_000, &record, 160_016);
        assert_eq!(read[0].grants.as_ref(), Some(&expected));
        assert_eq!(read[1..], record[1..]);
        for (now, then) in [(160_016, 140_000), (180_000, 170_000), (170_000, 180_000)] {
            assert_eq!(in_words_of(now, &record, then)[..], record, "{now} {then}");
        }
    }

    #[test]
    fn who_lacked_something_does_not() {
        let most = grants("app", &ALL_BEFORE[1..], false);
        let mixed = [grants("app", &ALL_BEFORE[..3], false), grants("app", &ALL_BEFORE[3..], true)].concat();
        let columns: Vec<Grant> = grants("app", &ALL_BEFORE, false)
            .into_iter()
            .map(|grant| Grant { column: Some("a".into()), ..grant })
            .collect();
        let record = [of("table", Some(most)), of("table", Some(mixed)), of("table", Some(columns))];
        assert_eq!(in_words_of(170_000, &record, 160_000)[..], record);
    }
}
