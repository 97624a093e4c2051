//! Pinning backups: what is pinned is kept whatever happens.

use axum::extract::State;

use crate::{
    history::Backup,
    http::{
        Api,
        answer::Data,
        api::refusal::{self, About},
        error::Problem,
        extract::{Id, Signed},
        redact,
    },
    ids::BackupId,
    jobs::request::{self, Pin},
    tenant::Permission,
};

/// Pin a backup
///
/// It is kept whatever happens: it does not expire, and a deletion is refused until the pin is taken out. One that is pinned already stays so.
#[utoipa::path(
    post, path = "/api/backup/{id}/pin", operation_id = "pin_backup", tag = "backup",
    params(("id" = Uuid, Path, description = "The backup's id.")),
    responses((status = 200, description = "The backup, pinned.", body = Data<Backup>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn pin(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Data<Backup>, Problem> {
    change(&api, &caller, id, Pin::Set).await
}

/// Unpin a backup
///
/// It expires and may be deleted like any other. One that is not pinned stays so.
#[utoipa::path(
    post, path = "/api/backup/{id}/unpin", operation_id = "unpin_backup", tag = "backup",
    params(("id" = Uuid, Path, description = "The backup's id.")),
    responses((status = 200, description = "The backup, not pinned.", body = Data<Backup>)),
    security(("bearer" = ["backup:write"])),
)]
pub async fn unpin(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
) -> Result<Data<Backup>, Problem> {
    change(&api, &caller, id, Pin::TakeOut).await
}

async fn change(
    api: &Api,
    caller: &Signed,
    id: Result<Id<BackupId>, Problem>,
    pin: Pin,
) -> Result<Data<Backup>, Problem> {
    let about = id.as_ref().ok().map(|Id(id)| About::Backup(*id));
    refusal::require(api, caller, Permission::Write, pin.event(), about).await?;
    let backup = request::pin(&api.app, &caller.0, id?.0, pin).await?;
    Ok(Data { data: redact::backup(backup, &caller.0) })
}
