//! What the bucket lets this key do, tried out. A right that is missing and without which a backup is still stored is a warning.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::StreamExt;
use object_store::{ObjectStore, PutMode, PutOptions, path::Path};

use super::{Bucket, PROBES, S3Storage, UPLOADS, Weight, is_versioned};
use crate::{
    artifact::{ArtifactName, Fingerprint},
    byte_size::ByteSize,
    ids::LeaseToken,
    storage::{
        ByteRange, Error, ErrorKind, Locator, NewObject, Probe, ProbeDepth, Storage, fingerprint, get_whole, put_whole,
    },
};

const DOCUMENTATION: &str = "docs/s3.md lists the full policy";

pub(super) async fn probe(storage: &S3Storage, depth: ProbeDepth) -> Result<Probe, Error> {
    let mut probe = Probe::default();
    let small = name("probe")?;
    let written = Bytes::from(small.to_string());
    let at = put_whole(storage, &small, LeaseToken::generate(), written.clone()).await?;
    // From here on the object is there, and goes whatever else happens.
    let tried = async {
        try_reading(storage, &at, &written, &mut probe).await?;
        if depth == ProbeDepth::Thorough {
            try_overwriting(storage, &at, &written, &mut probe).await?;
        }
        Ok(())
    }
    .await;
    let removed = try_deleting(storage, &at, &mut probe).await;
    tried.and(removed)?;
    try_listing(storage, &mut probe).await?;
    if depth == ProbeDepth::Thorough {
        try_parts(storage, &mut probe).await?;
        try_aborting(storage, &mut probe).await?;
    }
    Ok(probe)
}

/// A name that no backup has, below `backups/` where a narrow policy gives rights too.
fn name(what: &str) -> Result<ArtifactName, Error> {
    let name = format!("backups/.holdfast-probe/{what}-{}", LeaseToken::generate());
    name.parse().map_err(|error| Error::new(ErrorKind::Invalid, "cannot name the probe").with_source(error))
}

async fn try_reading(storage: &S3Storage, at: &Locator, written: &Bytes, probe: &mut Probe) -> Result<(), Error> {
    let looked = storage.stat(at).await.map(|_| ());
    let read = get_whole(storage, at, ByteSize::kib(1)).await;
    match (looked, read) {
        (Ok(()), Ok(read)) if read == *written => probe.seen.push("an object was written and read back".to_owned()),
        (Ok(()), Ok(_)) => {
            return Err(Error::new(ErrorKind::Corrupt, "what was written to the bucket reads back differently"));
        }
        (Err(error), _) | (_, Err(error)) if error.kind == ErrorKind::Denied => {
            probe.seen.push("an object was written".to_owned());
            probe.warnings.push(format!(
                "the key may not read (s3:GetObject): copies are stored without being read back, and nothing can be verified or restored \
                 with it; {DOCUMENTATION}"
            ));
        }
        (Err(error), _) | (_, Err(error)) => return Err(error),
    }
    Ok(())
}

/// Whether the service itself refuses to overwrite.
async fn try_overwriting(storage: &S3Storage, at: &Locator, written: &Bytes, probe: &mut Probe) -> Result<(), Error> {
    let bucket = &storage.bucket;
    let (object, context) = (bucket.located(at)?, "cannot try to overwrite the probe");
    let refused = if bucket.conditional.load(Ordering::Relaxed) {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match bucket.ask(bucket.publishing.put_opts(&object, written.clone().into(), options)).await {
            Ok(_) => false,
            Err(trouble) if trouble.kind() == ErrorKind::Exists => true,
            Err(trouble) if trouble.code() == "NotImplemented" => false,
            Err(trouble) => return Err(trouble.told(context)),
        }
    } else {
        false
    };
    if refused {
        probe.seen.push("the service refuses to overwrite an object (If-None-Match)".to_owned());
    } else {
        probe.warnings.push(
            "the service does not refuse to overwrite (If-None-Match): Holdfast's own lock keeps its processes apart, but a program that \
             does not share this control plane could overwrite a backup"
                .to_owned(),
        );
    }
    Ok(())
}

async fn try_deleting(storage: &S3Storage, at: &Locator, probe: &mut Probe) -> Result<(), Error> {
    let bucket = &storage.bucket;
    let object = bucket.located(at)?;
    let keeps_versions = matches!(bucket.look(&object, Weight::Look).await, Ok(Some(meta)) if is_versioned(&meta));
    match bucket.remove(&object).await {
        Ok(()) => probe.seen.push("an object was deleted".to_owned()),
        Err(trouble) if trouble.kind() == ErrorKind::Denied && !trouble.is_about_the_keys() => {
            let key = format!("{PROBES}{object}");
            bucket.ledger.put(&bucket.storage_name, &key, bucket.remembered(&object).into()).await?;
            probe.warnings.push(format!(
                "the key may not delete (s3:DeleteObject): backups stay when they expire, and the probe {object} is left; {DOCUMENTATION}"
            ));
        }
        Err(trouble) => return Err(trouble.told("cannot delete the probe")),
    }
    if keeps_versions {
        probe.warnings.push(
            "the bucket keeps versions: what Holdfast deletes stays readable until a lifecycle rule removes old versions".to_owned(),
        );
    }
    Ok(())
}

async fn try_listing(storage: &S3Storage, probe: &mut Probe) -> Result<(), Error> {
    match storage.manifests().next().await {
        None | Some(Ok(_)) => probe.seen.push("the bucket was listed".to_owned()),
        Some(Err(error)) if error.kind == ErrorKind::Denied => probe.warnings.push(format!(
            "the key may not list (s3:ListBucket): the catalogue cannot be rebuilt from the bucket, and no deletion \
             can be confirmed; {DOCUMENTATION}"
        )),
        Some(Err(error)) => return Err(error),
    }
    Ok(())
}

/// A full part and a short one, as an upload of its own, and a range across their border.
async fn try_parts(storage: &S3Storage, probe: &mut Probe) -> Result<(), Error> {
    let (bucket, large) = (&storage.bucket, name("parts")?);
    let part_size = bucket.part_size;
    let bytes: Bytes = (0..part_size + 1000).map(|at| (at % 251) as u8).collect::<Vec<_>>().into();
    let at = put_whole(storage, &large, LeaseToken::generate(), bytes.clone()).await?;
    let (start, length) = (part_size as u64 - 500, 1000);
    let tried = async {
        if fingerprint(storage, &at).await? != Fingerprint::of(&bytes) {
            return Err(Error::new(ErrorKind::Corrupt, "an object in two parts reads back differently"));
        }
        let mut range = storage.open(&at, Some(ByteRange { start, length })).await?;
        let mut read = Vec::new();
        while let Some(chunk) = range.next().await {
            read.extend_from_slice(&chunk?);
        }
        if read != bytes[part_size - 500..part_size + 500] {
            return Err(Error::new(ErrorKind::Corrupt, "a range of an object in two parts reads back differently"));
        }
        Ok(())
    }
    .await;
    let size = ByteSize(part_size as u64);
    match tried {
        Ok(()) => probe.seen.push(format!(
            "an object in two parts, the first of {size}, was written and read back, whole and in a range"
        )),
        Err(error) if error.kind == ErrorKind::Denied => {
            probe.seen.push(format!("an object in two parts, the first of {size}, was written"));
        }
        Err(error) => {
            remove(bucket, &bucket.located(&at)?).await?;
            return Err(error);
        }
    }
    remove(bucket, &bucket.located(&at)?).await
}

/// Removes a probe, or remembers it for the sweep; that the right is missing was said before.
async fn remove(bucket: &Bucket, object: &Path) -> Result<(), Error> {
    match bucket.remove(object).await {
        Ok(()) => Ok(()),
        Err(trouble) => {
            let key = format!("{PROBES}{object}");
            bucket.ledger.put(&bucket.storage_name, &key, bucket.remembered(object).into()).await?;
            if trouble.kind() == ErrorKind::Denied { Ok(()) } else { Err(trouble.told("cannot delete the probe")) }
        }
    }
}

/// An upload that is begun and ended without an object.
async fn try_aborting(storage: &S3Storage, probe: &mut Probe) -> Result<(), Error> {
    let (bucket, aborted) = (&storage.bucket, name("aborted")?);
    let mut upload = storage.create(NewObject::new(&aborted, LeaseToken::generate())).await?;
    let mut missing = bucket.part_size + 1;
    let piece = Bytes::from(vec![0; usize::try_from(storage.limits().part.0).unwrap_or(missing)]);
    while missing > 0 {
        let bytes = missing.min(piece.len());
        if let Err(error) = upload.put(piece.slice(..bytes)).await {
            upload.abort().await;
            return Err(error);
        }
        missing -= bytes;
    }
    upload.abort().await;
    let object = bucket.object(&aborted)?;
    let left = bucket.ledger.list(&bucket.storage_name, UPLOADS).await?;
    if left.iter().any(|fact| fact.value.get("object").and_then(|value| value.as_str()) == Some(object.as_ref())) {
        probe.warnings.push(format!(
            "the key may not abort uploads (s3:AbortMultipartUpload): what a failed backup leaves is paid for until a lifecycle rule \
             removes it; {DOCUMENTATION}"
        ));
    } else {
        probe.seen.push("an upload was aborted".to_owned());
    }
    Ok(())
}
