//! The stored bytes of a backup, streamed from the first copy that opens; or what they hold, where that is allowed.

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::{Stream, TryStreamExt};
use serde::Deserialize;
use serde_json::json;

use super::{
    range::{Wanted, wanted},
    refusal::{self, About},
};
use crate::{
    db,
    history::{self, Backup, BackupStatus, Event},
    http::{
        Api,
        error::Problem,
        extract::{Id, Params, Signed},
    },
    ids::BackupId,
    jobs::{
        authentic::{self, Compare, Refusal},
        content::{ContentError, decoded},
    },
    storage::{self, ByteRange, ByteStream, Locator, Pace, Storage},
    tenant::{Caller, Permission},
};

/// Which copy, and in which form.
#[derive(Debug, Deserialize, utoipa::IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DownloadQuery {
    /// The storage to take it from, and no other. Default: the first with a good copy.
    #[param(example = "offsite")]
    pub from: Option<String>,
    /// What the backup holds, decrypted and decompressed, in the place of the stored bytes. Where the setting `encryption.decrypted_downloads`
    /// allows it. Default: `false`.
    pub decrypt: Option<bool>,
}

/// Download a backup
///
/// The bytes as they are stored, compressed and encrypted as the backup says. One range may be asked for, so that a broken
/// download can go on; `ETag` is the SHA-256 of the whole. With `decrypt` the content comes without a length and without ranges; if it turns
/// out at its end not to be what was taken, the connection is broken off.
#[utoipa::path(
    get, path = "/api/backup/{id}/download", operation_id = "download_backup", tag = "backup",
    params(
        ("id" = Uuid, Path, description = "The backup's id."),
        ("Range" = Option<String>, Header, description = "One range of bytes.", example = "bytes=1048576-"),
        ("If-Range" = Option<String>, Header, description = "The ETag of what was downloaded so far."),
        DownloadQuery,
    ),
    responses(
        (status = 200, description = "The bytes.", content_type = "application/octet-stream", body = Vec<u8>,
            headers(("ETag" = String, description = "SHA-256 of the stored bytes, quoted."),
                ("Content-Disposition" = String, description = "The file's name."))),
        (status = 206, description = "The range that was asked for.", content_type = "application/octet-stream", body = Vec<u8>),
        (status = 403, description = "The token lacks the scope that this call needs, or decrypted downloads are not allowed.", body = crate::http::error::ProblemDocument<'static>, content_type = "application/problem+json"),
        (status = 409, description = "The backup has no stored bytes, or no key here opens them.", body = crate::http::error::ProblemDocument<'static>, content_type = "application/problem+json"),
        (status = 416, description = "The range lies outside the file.", body = crate::http::error::ProblemDocument<'static>, content_type = "application/problem+json"),
        (status = 502, description = "No copy can be read.", body = crate::http::error::ProblemDocument<'static>, content_type = "application/problem+json"),
    ),
    security(("bearer" = ["backup:read"])),
)]
pub async fn download_backup(
    State(api): State<Api>,
    caller: Signed,
    id: Result<Id<BackupId>, Problem>,
    params: Result<Params<DownloadQuery>, Problem>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let about = id.as_ref().ok().map(|Id(id)| About::Backup(*id));
    refusal::require(&api, &caller, Permission::Read, "downloaded", about).await?;
    let (Id(id), Params(DownloadQuery { from, decrypt })) = (id?, params?);
    let backup = history::get(&api.app.pool, &caller.0.scope(), id).await?;
    match decrypt {
        Some(true) => content(&api, &caller.0, &backup, from.as_deref(), &method).await,
        Some(false) | None => stored(&api, &caller.0, &backup, from.as_deref(), &method, &headers).await,
    }
}

/// The bytes as they are stored, or a part of them.
async fn stored(
    api: &Api,
    caller: &Caller,
    backup: &Backup,
    from: Option<&str>,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let size = downloadable(backup)?;
    let etag = backup.sha256.as_ref().map(|digest| format!("\"{digest}\""));
    let wanted = match range_header(headers, etag.as_deref()) {
        Some(range) => wanted(Some(range), size),
        None => Wanted::All,
    };
    let part = match wanted {
        Wanted::All => None,
        Wanted::Part(part) => Some(part),
        Wanted::Nothing => {
            return Err(Problem::new(
                StatusCode::RANGE_NOT_SATISFIABLE,
                "request.range",
                format!("the range lies outside the {size} bytes of the file"),
            )
            .header(header::CONTENT_RANGE, &format!("bytes */{size}")));
        }
    };
    let (storage, stream) = open(api, backup, from, size, part).await?;
    // Asking for the head alone moves no bytes.
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        record(api, caller, backup, &storage, part.map_or(Form::Stored, Form::Part)).await?;
        watched(backup, storage, stream)
    };
    let length = part.map_or(size, |part| part.length);
    let mut headers = vec![
        (header::CONTENT_LENGTH, length.to_string()),
        (header::CONTENT_DISPOSITION, disposition(&file_name(backup))),
        (header::ACCEPT_RANGES, "bytes".to_owned()),
    ];
    headers.extend(etag.map(|etag| (header::ETAG, etag)));
    let mut status = StatusCode::OK;
    if let Some(ByteRange { start, length }) = part {
        status = StatusCode::PARTIAL_CONTENT;
        headers.push((header::CONTENT_RANGE, format!("bytes {start}-{}/{size}", start + length - 1)));
    }
    Ok(answer(status, body, headers))
}

/// What the stored bytes hold. Without a length: only a connection that breaks off can say at the end that something was wrong.
async fn content(
    api: &Api,
    caller: &Caller,
    backup: &Backup,
    from: Option<&str>,
    method: &Method,
) -> Result<Response, Problem> {
    if !api.app.config.encryption.decrypted_downloads {
        return Err(Problem::new(StatusCode::FORBIDDEN, "download.encrypted", "backups are not decrypted here")
            .hint("Download the stored bytes and open them with `age -d`, or have an operator set encryption.decrypted_downloads."));
    }
    let size = downloadable(backup)?;
    let encoding =
        backup.encoding().map_err(|error| Problem::new(StatusCode::CONFLICT, "backup.encoding", error.to_string()))?;
    let (storage, stream) = open(api, backup, from, size, None).await?;
    let body = if method == Method::HEAD {
        Body::empty()
    } else {
        let stream = decoded(&api.app, backup, stream).await.map_err(|error| {
            tracing::warn!(id = %backup.id, storage, %error, "a copy cannot be decrypted for a download");
            match error {
                ContentError::Busy => Problem::new(StatusCode::SERVICE_UNAVAILABLE, "download.busy", error.to_string())
                    .header(header::RETRY_AFTER, "60")
                    .hint("Try again in a minute, or download the stored bytes and decrypt them where the key is."),
                ContentError::Decode(error) => Problem::new(StatusCode::CONFLICT, error.code(), error.to_string())
                    .hint("Download the stored bytes, and decrypt them where the key is."),
            }
        })?;
        record(api, caller, backup, &storage, Form::Content).await?;
        watched(backup, storage, stream)
    };
    let name = encoding.decoded_name(&file_name(backup));
    let headers = vec![(header::CONTENT_DISPOSITION, disposition(&name)), (header::ACCEPT_RANGES, "none".to_owned())];
    Ok(answer(StatusCode::OK, body, headers))
}

/// A body that says in the log when it broke off.
fn watched<E>(backup: &Backup, storage: String, stream: impl Stream<Item = Result<Bytes, E>> + Send + 'static) -> Body
where
    E: std::error::Error + Send + Sync + 'static,
{
    let id = backup.id;
    Body::from_stream(stream.inspect_err(move |error| tracing::error!(%id, storage, %error, "a download broke off")))
}

fn answer(status: StatusCode, body: Body, headers: Vec<(HeaderName, String)>) -> Response {
    let mut response = (status, body).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    for (name, value) in headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// The size of what is stored, if anything is. Expired and damaged backups can be downloaded while a good copy is left.
fn downloadable(backup: &Backup) -> Result<u64, Problem> {
    let has_bytes = [BackupStatus::Completed, BackupStatus::Damaged, BackupStatus::Expired];
    match u64::try_from(backup.size) {
        Ok(size) if has_bytes.iter().any(|status| backup.is(*status)) => Ok(size),
        _ => Err(Problem::new(
            StatusCode::CONFLICT,
            "backup.not_completed",
            format!("backup {} is {}: there is nothing to download", backup.id, backup.status),
        )
        .hint("Choose a backup that is completed.")),
    }
}

/// The `Range` header, unless `If-Range` names other bytes than those that are stored (RFC 9110 section 13.1.5).
fn range_header<'a>(headers: &'a HeaderMap, etag: Option<&str>) -> Option<&'a str> {
    if let Some(condition) = headers.get(header::IF_RANGE)
        && condition.to_str().ok() != etag
    {
        return None;
    }
    headers.get(header::RANGE)?.to_str().ok()
}

/// Opens the first good copy that has as many bytes as were recorded, or the one in the storage `from` alone. The others are told in the log; whether they are damaged,
/// a verification decides.
async fn open(
    api: &Api,
    backup: &Backup,
    from: Option<&str>,
    size: u64,
    part: Option<ByteRange>,
) -> Result<(String, ByteStream), Problem> {
    let mut copies = history::copies(&api.app.pool, &[backup.id]).await?;
    if copies.iter().any(|copy| copy.is_good() && !api.app.storages.contains_key(&copy.storage)) {
        api.app.storages.refresh().await?;
    }
    // Quick storages first.
    let is_slow = |name: &str| api.app.storages.get(name).is_some_and(|s| s.limits().pace == Pace::Afterwards);
    copies.sort_by_key(|copy| is_slow(&copy.storage));
    let mut last = None;
    for copy in copies.iter().filter(|copy| copy.is_good() && from.is_none_or(|name| copy.storage == name)) {
        let (Some(locator), Some(storage)) = (copy.locator(), api.app.storages.get(&copy.storage)) else {
            tracing::warn!(id = %backup.id, storage = copy.storage, "a copy's storage is not configured here");
            continue;
        };
        match open_copy(api, backup, storage.as_ref(), &locator, size, part).await {
            Ok(stream) => return Ok((copy.storage.clone(), stream)),
            Err(error) => {
                tracing::warn!(id = %backup.id, storage = copy.storage, %error, "a copy cannot be downloaded");
                last = Some(error);
            }
        }
    }
    Err(last.map_or_else(
        || {
            Problem::new(
                StatusCode::CONFLICT,
                "backup.no_copy",
                format!("backup {} has no such good copy here", backup.id),
            )
            .hint("Look at the backup's copies, and whether their storages are configured.")
        },
        refused,
    ))
}

/// Opens a copy that is proved to be this backup's, and has as many bytes.
async fn open_copy(
    api: &Api,
    backup: &Backup,
    storage: &dyn Storage,
    at: &Locator,
    size: u64,
    part: Option<ByteRange>,
) -> Result<ByteStream, Refusal> {
    let stat = storage.stat(at).await.map_err(Refusal::Storage)?;
    if stat.bytes != size {
        let message = format!("expected {size} bytes, found {}", stat.bytes);
        return Err(Refusal::Storage(storage::Error::new(storage::ErrorKind::Corrupt, message)));
    }
    authentic::check(&api.app, backup, storage, at, Compare::Head).await?;
    storage.open(at, part).await.map_err(Refusal::Storage)
}

fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Storage(error) => error.into(),
        Refusal::Forged { code, message } => Problem::new(StatusCode::BAD_GATEWAY, code, message)
            .hint("Take another copy, and verify the backup: this one is not what was stored."),
        Refusal::Unproved { code, message, hint } => Problem::new(StatusCode::CONFLICT, code, message).hint(hint),
    }
}

/// What of a backup leaves.
#[derive(Clone, Copy, Debug)]
enum Form {
    Stored,
    Part(ByteRange),
    Content,
}

/// Writes down who downloads, before the first byte leaves.
async fn record(api: &Api, caller: &Caller, backup: &Backup, storage: &str, form: Form) -> Result<(), Problem> {
    let mut detail = json!({ "storage": storage });
    match form {
        Form::Stored => {}
        Form::Part(part) => detail["range"] = json!({ "start": part.start, "length": part.length }),
        Form::Content => detail["decrypted"] = json!(true),
    }
    let event = Event {
        backup_id: Some(backup.backup_id()),
        project_id: &backup.project_id,
        event: "downloaded",
        caller,
        outcome: "ok",
        detail,
    };
    let mut transaction = db::begin(&api.app.pool).await?;
    history::record(&mut transaction, &event).await?;
    transaction.commit().await?;
    Ok(())
}

fn file_name(backup: &Backup) -> String {
    backup.file_name.clone().unwrap_or_else(|| format!("backup-{}", backup.id))
}

/// The file's name for a browser. Rows of a platform's own may hold any name: what could leave the header is replaced.
fn disposition(name: &str) -> String {
    let is_safe = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let name: String = name.chars().take(200).map(|c| if is_safe(&c) { c } else { '_' }).collect();
    format!("attachment; filename=\"{name}\"")
}
