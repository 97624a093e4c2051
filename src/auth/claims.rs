//! What a token's claims say of its holder, under the names that the configuration gives.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::jwt::{AuthError, check_claimed_subject};
use crate::{
    config::AuthConfig,
    ids::ProjectId,
    tenant::{Caller, Permission, Role},
};

/// How deep a dotted name looks.
const MAX_DEPTH: usize = 8;

/// What the claims are called, and a platform's words for our roles.
#[derive(Clone, Debug)]
pub struct Names {
    subject: String,
    scope: String,
    default_permissions: Vec<Permission>,
    project_ids: String,
    organization: String,
    role: String,
    /// Empty: the words are ours.
    roles: BTreeMap<String, Role>,
}

impl Default for Names {
    fn default() -> Self {
        Self {
            subject: "sub".to_owned(),
            scope: "scope".to_owned(),
            default_permissions: Vec::new(),
            project_ids: "project_ids".to_owned(),
            organization: "org_id".to_owned(),
            role: "role".to_owned(),
            roles: BTreeMap::new(),
        }
    }
}

impl Names {
    /// # Errors
    /// A word for a role or a scope is not one of ours.
    pub fn of(config: &AuthConfig) -> Result<Self, AuthError> {
        let claims = &config.claims;
        let roles = config.roles.iter().map(|(theirs, ours)| match ours.parse() {
            Ok(role) => Ok((theirs.clone(), role)),
            Err(error) => Err(AuthError::Setting { setting: "auth.roles", problem: format!("{error}") }),
        });
        let words = claims.default_scope.split(' ').filter(|word| !word.is_empty());
        let default_permissions =
            words.map(str::parse).collect::<Result<_, _>>().map_err(|error: crate::artifact::UnknownWord| {
                AuthError::Setting { setting: "auth.claims.default_scope", problem: error.to_string() }
            })?;
        Ok(Self {
            subject: claims.subject.clone(),
            scope: claims.scope.clone(),
            default_permissions,
            project_ids: claims.project_ids.clone(),
            organization: claims.organization.clone(),
            role: claims.role.clone(),
            roles: roles.collect::<Result<_, _>>()?,
        })
    }

    /// The caller that these claims speak for, without an address. Unknown scopes are left out, since tokens may carry those of other
    /// services.
    ///
    /// # Errors
    /// A claim has the wrong type, or a role that is a single word is not known: no smaller one can be guessed.
    pub fn caller(&self, claims: &Map<String, Value>) -> Result<Caller, AuthError> {
        let subject = match find(claims, &self.subject, MAX_DEPTH) {
            None | Some(Value::Null) => return Err(missing("sub")),
            Some(Value::String(subject)) => subject,
            Some(_) => return Err(AuthError::Claim { name: "sub", problem: "is not a string" }),
        };
        check_claimed_subject(subject)?;
        Ok(Caller {
            subject: subject.clone(),
            role: self.role(claims)?,
            permissions: self.permissions(claims)?,
            project_ids: self.projects(claims)?,
            organization_id: self.organization(claims)?,
            address: None,
        })
    }

    fn permissions(&self, claims: &Map<String, Value>) -> Result<Vec<Permission>, AuthError> {
        let words: Vec<&str> = match find(claims, &self.scope, MAX_DEPTH) {
            None | Some(Value::Null) => return Ok(self.default_permissions.clone()),
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(list)) => list.iter().map(Value::as_str).collect::<Option<_>>().ok_or(NO_SCOPE)?,
            Some(_) => return Err(NO_SCOPE),
        };
        Ok(Permission::ALL.iter().copied().filter(|permission| words.contains(&permission.as_str())).collect())
    }

    fn role(&self, claims: &Map<String, Value>) -> Result<Role, AuthError> {
        let wrong = |problem| AuthError::Claim { name: "role", problem };
        match find(claims, &self.role, MAX_DEPTH) {
            None | Some(Value::Null) => Ok(Role::Member),
            Some(Value::String(word)) => match self.known_role(word) {
                Some(role) => Ok(role),
                None if self.roles.is_empty() => Err(wrong("is unknown")),
                None => Ok(Role::Member),
            },
            // A platform's list has words for other services as well.
            Some(Value::Array(list)) => {
                let words: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
                let words = words.ok_or(wrong("is not a list of words"))?;
                let known = words.iter().filter_map(|word| self.known_role(word));
                Ok(known.max_by_key(|role| strength(*role)).unwrap_or(Role::Member))
            }
            Some(_) => Err(wrong("is not a string or a list of strings")),
        }
    }

    fn known_role(&self, word: &str) -> Option<Role> {
        if self.roles.is_empty() { word.parse().ok() } else { self.roles.get(word).copied() }
    }

    fn projects(&self, claims: &Map<String, Value>) -> Result<Vec<ProjectId>, AuthError> {
        let wrong = AuthError::Claim { name: "project_ids", problem: "is not a list of project ids" };
        match find(claims, &self.project_ids, MAX_DEPTH) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids
                .iter()
                .map(|id| id.as_str().and_then(|id| id.parse().ok()))
                .collect::<Option<Vec<ProjectId>>>()
                .ok_or(wrong),
            Some(_) => Err(wrong),
        }
    }

    fn organization(&self, claims: &Map<String, Value>) -> Result<Option<String>, AuthError> {
        let wrong = |problem| Err(AuthError::Claim { name: "org_id", problem });
        match find(claims, &self.organization, MAX_DEPTH) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(id)) if id.is_empty() || id.len() > 255 || id.chars().any(char::is_control) => {
                wrong("is empty, too long or has control characters")
            }
            Some(Value::String(id)) => Ok(Some(id.clone())),
            Some(_) => wrong("is not a string"),
        }
    }
}

const NO_SCOPE: AuthError = AuthError::Claim { name: "scope", problem: "is not a string or a list of strings" };

const fn strength(role: Role) -> u8 {
    match role {
        Role::Member => 0,
        Role::OrgAdmin => 1,
        Role::Operator => 2,
    }
}

/// The claim of this name, or what a dotted name finds inside objects.
fn find<'a>(claims: &'a Map<String, Value>, name: &str, depth: usize) -> Option<&'a Value> {
    if let Some(value) = claims.get(name) {
        return Some(value);
    }
    if depth == 0 {
        return None;
    }
    name.match_indices('.').find_map(|(at, _)| {
        let inner = claims.get(&name[..at])?.as_object()?;
        find(inner, &name[at + 1..], depth - 1)
    })
}

pub(super) const fn missing(name: &'static str) -> AuthError {
    AuthError::Claim { name, problem: "is missing" }
}

pub(super) fn text<'a>(claims: &'a Map<String, Value>, name: &'static str) -> Result<Option<&'a str>, AuthError> {
    match claims.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(AuthError::Claim { name, problem: "is not a string" }),
    }
}

/// A NumericDate of RFC 7519 section 2: seconds since 1970, of which fractions are allowed and cut off here.
pub(super) fn time(claims: &Map<String, Value>, name: &'static str) -> Result<Option<i64>, AuthError> {
    let seconds = match claims.get(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(value) => value.as_f64().ok_or(AuthError::Claim { name, problem: "is not a number" })?,
    };
    // Beyond the year 9999 a time is more likely in milliseconds, and such a token would never expire.
    if (0.0..=253_402_300_799.0).contains(&seconds) {
        Ok(Some(seconds as i64))
    } else {
        Err(AuthError::Claim { name, problem: "is not a time in seconds" })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn names(change: impl FnOnce(&mut AuthConfig)) -> Names {
        let mut config = AuthConfig::default();
        change(&mut config);
        Names::of(&config).unwrap()
    }

    fn caller(names: &Names, mut claims: Value) -> Result<Caller, AuthError> {
        claims["sub"] = json!("7");
        names.caller(claims.as_object().unwrap())
    }

    #[test]
    fn a_dotted_name_looks_inside_and_a_name_with_dots_is_found_as_it_is() {
        let names = names(|config| {
            config.claims.subject = "user.name".to_owned();
            config.claims.role = "https://example.com/roles".to_owned();
            config.claims.project_ids = "https://example.com/app.tenants".to_owned();
            config.claims.organization = "a.b.c".to_owned();
        });
        let claims = json!({
            "user": { "name": "alice" },
            "https://example.com/roles": "org_admin",
            "https://example.com/app": { "tenants": ["acme"] },
            "a": { "b": { "c": "o1" } },
        });
        let caller = caller(&names, claims).unwrap();
        assert_eq!((caller.subject.as_str(), caller.role), ("alice", Role::OrgAdmin));
        assert_eq!(
            (caller.project_ids, caller.organization_id.as_deref()),
            (vec!["acme".parse().unwrap()], Some("o1"))
        );
    }

    #[test]
    fn the_strongest_word_of_a_list_counts_and_with_a_table_no_other_word_does() {
        let plain = names(|config| config.claims.role = "realm_access.roles".to_owned());
        let roles =
            |names: &Names, roles: Value| caller(names, json!({ "realm_access": { "roles": roles } })).map(|c| c.role);
        assert_eq!(roles(&plain, json!(["uma", "operator", "org_admin"])), Ok(Role::Operator));
        assert_eq!(roles(&plain, json!(["uma"])), Ok(Role::Member));
        assert!(roles(&plain, json!([7])).is_err() && roles(&plain, json!({})).is_err());
        let mapped = names(|config| {
            config.claims.role = "realm_access.roles".to_owned();
            config.roles.insert("Backup-Admin".to_owned(), "operator".to_owned());
        });
        assert_eq!(roles(&mapped, json!(["Backup-Admin"])), Ok(Role::Operator));
        // On that platform the word may mean anything.
        assert_eq!(roles(&mapped, json!(["operator", "org_admin"])), Ok(Role::Member));
        assert_eq!(roles(&mapped, json!("operator")), Ok(Role::Member));
    }

    #[test]
    fn a_scope_is_a_text_or_a_list_and_has_a_default_only_when_it_is_not_there() {
        let names = names(|config| config.claims.default_scope = "backup:read".to_owned());
        let permissions = |scope: Value| caller(&names, json!({ "scope": scope })).map(|caller| caller.permissions);
        assert_eq!(permissions(Value::Null), Ok(vec![Permission::Read]));
        assert_eq!(permissions(json!("")), Ok(vec![]));
        assert_eq!(permissions(json!(["openid", "backup:write"])), Ok(vec![Permission::Write]));
        assert_eq!(permissions(json!(["backup:read backup:write"])), Ok(vec![]));
        assert!(permissions(json!([1])).is_err() && permissions(json!(true)).is_err());
    }

    #[test]
    fn a_table_with_unknown_words_is_refused() {
        let mut config = AuthConfig::default();
        config.roles.insert("admin".to_owned(), "root".to_owned());
        assert!(Names::of(&config).unwrap_err().to_string().starts_with("auth.roles: unknown role \"root\""));
        config.roles.clear();
        config.claims.default_scope = "everything".to_owned();
        assert!(Names::of(&config).unwrap_err().to_string().starts_with("auth.claims.default_scope: unknown scope"));
    }
}
