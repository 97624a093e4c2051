//! The steps of a load in one transaction that its own role may not take: the live schema aside and an empty one in its place before the
//! dump, and after it both names back, so that what was loaded waits under a name that nobody uses. Each is a function with its maker's
//! rights, made for this one restore.
//!
//! The role that runs the dump may call them, so may the dump. What always holds:
//!
//! - each wants a word that is in no catalog (only its digest is) and that the dump does not get to see;
//! - the transaction cannot be committed while the live schema is aside: a deferred trigger looks at the names then, so a COMMIT inside
//!   the dump is an error that undoes everything;
//! - the second step wants to be in the first one's transaction, so a ROLLBACK inside the dump is seen.

use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use super::{Plan, RestoreError, Target, role::execute};
use crate::postgres::quote::{ident, literal};

/// Names of one restore, quoted for statements and as texts.
struct Names<'a> {
    plan: &'a Plan,
    schema: &'a str,
    live_oid: Option<u32>,
    side: &'a str,
    new: String,
}

impl<'a> Names<'a> {
    fn of(plan: &'a Plan) -> Option<Self> {
        match &plan.target {
            Target::Schema { schema, live_oid, side, .. } => {
                Some(Self { plan, schema, live_oid: *live_oid, side, new: plan.new_name() })
            }
            Target::Database { .. } => None,
        }
    }

    /// The schema of the steps, quoted.
    fn home(&self) -> String {
        ident(&self.plan.role)
    }

    /// The oid of the live schema, or `NULL`.
    fn live(&self) -> String {
        self.live_oid.map_or_else(|| "NULL::pg_catalog.oid".to_owned(), |oid| format!("{oid}::pg_catalog.oid"))
    }

    fn rename(&self, from: &str, to: &str) -> String {
        match self.live_oid {
            Some(_) => format!("ALTER SCHEMA {} RENAME TO {};", ident(from), ident(to)),
            None => String::new(),
        }
    }
}

/// A block of PL/pgSQL that takes from everybody else what a new schema came with: a platform's event trigger may give rights to each. The recorded
/// ones come back with the owners.
pub(super) fn for_its_owner_alone(schema: &str) -> String {
    let name = literal(schema);
    format!(
        "DECLARE grantee pg_catalog.text; BEGIN \
         FOR grantee IN SELECT DISTINCT CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END \
             FROM pg_catalog.pg_namespace n CROSS JOIN LATERAL pg_catalog.aclexplode(n.nspacl) a \
             WHERE n.nspname = {name} AND a.grantee <> n.nspowner \
         LOOP EXECUTE pg_catalog.format('REVOKE ALL ON SCHEMA %I FROM %s CASCADE', {name}, grantee); END LOOP; END;"
    )
}

/// What is said before the dump.
pub(super) fn aside(plan: &Plan, word: &str) -> String {
    format!("SELECT {}.step_aside({});\n", ident(&plan.role), literal(word))
}

/// What is said after it.
pub(super) fn back(plan: &Plan, word: &str) -> String {
    format!("SELECT {}.step_back({});\n", ident(&plan.role), literal(word))
}

/// Makes the steps, for nobody but the restore's role.
pub(super) async fn make(c: &mut PgConnection, plan: &Plan, word: &str) -> Result<(), RestoreError> {
    let Some(names) = Names::of(plan) else { return Ok(()) };
    let (home, role) = (names.home(), ident(&plan.role));
    let digest = Sha256::digest(word).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let check = format!(
        "IF pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(word, 'UTF8')), 'hex') IS DISTINCT FROM '{digest}' THEN \
             RAISE EXCEPTION 'the steps of a restore are not for its dump'; END IF;"
    );
    let is_live = format!(
        "(SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = {}) IS NOT DISTINCT FROM {}",
        literal(names.schema),
        names.live()
    );
    let aside = format!(
        "BEGIN {check} \
         IF NOT ({is_live}) THEN RAISE EXCEPTION 'the schema is not the one that this restore was planned for'; END IF; \
         {} CREATE SCHEMA {} AUTHORIZATION {role}; {} \
         INSERT INTO {home}.state (began_in, made) SELECT pg_catalog.pg_current_xact_id(), n.oid \
             FROM pg_catalog.pg_namespace n WHERE n.nspname = {}; END",
        names.rename(names.schema, names.side),
        ident(names.schema),
        for_its_owner_alone(names.schema),
        literal(names.schema),
    );
    let back = format!(
        "BEGIN {check} \
         IF NOT EXISTS (SELECT FROM {home}.state s JOIN pg_catalog.pg_namespace n ON n.oid = s.made \
                        JOIN pg_catalog.pg_roles r ON r.oid = n.nspowner \
                        WHERE s.began_in = pg_catalog.pg_current_xact_id() AND n.nspname = {} AND r.rolname = {}) \
         THEN RAISE EXCEPTION 'the dump ended the transaction of its restore'; END IF; \
         ALTER SCHEMA {} RENAME TO {}; {} END",
        literal(names.schema),
        literal(&plan.role),
        ident(names.schema),
        ident(&names.new),
        names.rename(names.side, names.schema),
    );
    let watch = format!(
        "BEGIN IF NOT ({is_live}) THEN RAISE EXCEPTION 'the dump ended the transaction of its restore'; END IF; RETURN NULL; END"
    );
    let function = |head: &str, rights: &str, body: &str| {
        format!("CREATE FUNCTION {home}.{head} LANGUAGE plpgsql {rights} SET search_path = '' AS {}", literal(body))
    };
    for statement in [
        format!("CREATE SCHEMA {home}"),
        format!("CREATE TABLE {home}.state (began_in pg_catalog.xid8 NOT NULL, made pg_catalog.oid NOT NULL)"),
        function("watch() RETURNS pg_catalog.trigger", "", &watch),
        format!(
            "CREATE CONSTRAINT TRIGGER watch AFTER INSERT ON {home}.state DEFERRABLE INITIALLY DEFERRED \
             FOR EACH ROW EXECUTE FUNCTION {home}.watch()"
        ),
        function("step_aside(word pg_catalog.text) RETURNS pg_catalog.void", "SECURITY DEFINER", &aside),
        function("step_back(word pg_catalog.text) RETURNS pg_catalog.void", "SECURITY DEFINER", &back),
        format!("REVOKE ALL ON ALL FUNCTIONS IN SCHEMA {home} FROM PUBLIC"),
        format!("GRANT USAGE ON SCHEMA {home} TO {role}"),
        format!(
            "GRANT EXECUTE ON FUNCTION {home}.step_aside(pg_catalog.text), {home}.step_back(pg_catalog.text) TO {role}"
        ),
    ] {
        execute(c, statement).await?;
    }
    Ok(())
}

/// Takes the steps away, and nothing else: when something of the dump depends on them, that is refused.
pub(super) async fn drop(c: &mut PgConnection, plan: &Plan) -> Result<(), RestoreError> {
    let home = ident(&plan.role);
    for statement in [
        format!("DROP FUNCTION {home}.step_aside(pg_catalog.text), {home}.step_back(pg_catalog.text)"),
        format!("DROP TABLE {home}.state"),
        format!("DROP FUNCTION {home}.watch()"),
        format!("DROP SCHEMA {home}"),
    ] {
        execute(c, statement).await?;
    }
    Ok(())
}

/// Takes them away with whatever a dump made of them; safe to repeat.
pub(super) async fn clear(c: &mut PgConnection, plan: &Plan) -> Result<(), RestoreError> {
    execute(c, format!("DROP SCHEMA IF EXISTS {} CASCADE", ident(&plan.role))).await
}
