//! Organisations: operators add, rename and remove them; an organisation's admin sees its own.

use serde_json::json;

use super::{check_name, record, require_admin, require_operator};
use crate::{
    app::App,
    catalog::{self, ManageError, Managed, Organization},
    db,
    tenant::{Caller, Permission},
};

/// Organisations within reach after this id, by id.
pub async fn list(
    app: &App,
    caller: &Caller,
    after: Option<&str>,
    limit: usize,
) -> Result<Vec<Organization>, ManageError> {
    require_admin(caller, Permission::Read)?;
    catalog::organizations(&app.pool, &caller.scope(), after, limit.cast_signed() as i64).await
}

/// One organisation within reach.
pub async fn show(app: &App, caller: &Caller, id: &str) -> Result<Organization, ManageError> {
    require_admin(caller, Permission::Read)?;
    catalog::organization(&app.pool, &caller.scope(), id).await
}

/// Adds an organisation.
pub async fn add(app: &App, caller: &Caller, id: &str, name: &str) -> Result<Organization, ManageError> {
    require_operator(caller, Permission::Write)?;
    if !catalog::is_plain_name(id, 128) {
        return Err(ManageError::invalid(
            "request.id",
            "id: use 1 to 128 letters, digits, '.', '_' or '-', beginning with a letter or digit",
        ));
    }
    check_name("request.name", name)?;
    let mut transaction = db::begin(&app.pool).await?;
    catalog::insert_organization(&mut *transaction, id, name).await?;
    record(&mut transaction, caller, "organization_added", Some(id), json!({ "name": name })).await?;
    transaction.commit().await?;
    catalog::organization(&app.pool, &caller.scope(), id).await
}

/// Gives an organisation another name.
pub async fn rename(app: &App, caller: &Caller, id: &str, name: &str) -> Result<Organization, ManageError> {
    require_operator(caller, Permission::Write)?;
    check_name("request.name", name)?;
    let mut transaction = db::begin(&app.pool).await?;
    let before = catalog::organization(&mut *transaction, &caller.scope(), id).await?;
    catalog::rename_organization(&mut *transaction, id, name).await?;
    let detail = json!({ "name": name, "before": before.name });
    record(&mut transaction, caller, "organization_changed", Some(id), detail).await?;
    transaction.commit().await?;
    catalog::organization(&app.pool, &caller.scope(), id).await
}

/// Removes an organisation, and its notice channels; its keys are revoked and its schedules switched off.
///
/// # Errors
/// Projects or users belong to it.
pub async fn delete(app: &App, caller: &Caller, id: &str) -> Result<(), ManageError> {
    require_operator(caller, Permission::Write)?;
    let mut transaction = db::begin(&app.pool).await?;
    catalog::lock_organization(&mut *transaction, id).await?;
    let found = catalog::organization(&mut *transaction, &caller.scope(), id).await?;
    if (found.projects, found.users) != (0, 0) {
        let by = format!("{} projects and {} users belong to it", found.projects, found.users);
        return Err(ManageError::InUse { what: Managed::Organization, name: id.to_owned(), by });
    }
    catalog::end_organizations_hold(&mut transaction, id, app.clock.now()).await?;
    catalog::delete_organization(&mut transaction, id).await?;
    record(&mut transaction, caller, "organization_deleted", Some(id), json!({ "name": found.name })).await?;
    transaction.commit().await?;
    Ok(())
}
