//! Objects of a bucket that are not Holdfast's own artifacts: a project's files. Read for a backup, written for a restore.

use std::{fmt, sync::Arc};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use object_store::{
    GetOptions, GetResult, ObjectStore as _, ObjectStoreExt as _, PutMode, PutOptions, PutPayload,
    aws::AmazonS3,
    list::{PaginatedListOptions, PaginatedListStore as _},
    multipart::{MultipartStore as _, PartId},
    path::Path,
};

use super::{Bucket, MOST_PARTS, Weight, trouble::Trouble};
use crate::{
    clock::Timestamp,
    storage::{ByteStream, Error, ErrorKind},
};

/// What is sent at once, unless an object would have too many such parts.
const PART: usize = 8 << 20;
/// How often an object that changes meanwhile is opened anew.
const OPEN_TRIES: u32 = 4;

/// A bucket's objects by their whole keys.
#[derive(Clone)]
pub struct Objects {
    bucket: Arc<Bucket>,
    client: AmazonS3,
    /// For people.
    name: String,
}

impl fmt::Debug for Objects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Objects").field("bucket", &self.name).finish_non_exhaustive()
    }
}

/// One object as a list tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub bytes: u64,
    pub modified: Timestamp,
    /// Tells one content from another.
    pub e_tag: Option<String>,
}

impl Objects {
    pub(super) fn new(bucket: Arc<Bucket>) -> Self {
        let (client, name) = (bucket.reads.clone(), bucket.name.clone());
        Self { bucket, client, name }
    }

    /// What lies right below a prefix that ends with a slash: the objects, and the prefixes one level further down, each with its slash.
    pub async fn list(&self, prefix: &str) -> Result<(Vec<Listed>, Vec<String>), Error> {
        let (mut objects, mut prefixes, mut token) = (Vec::new(), Vec::new(), None);
        loop {
            let options = PaginatedListOptions {
                delimiter: Some("/".into()),
                page_token: token,
                ..PaginatedListOptions::default()
            };
            let context = format!("cannot list {prefix:?} in bucket {}", self.name);
            let page = self.bucket.within(&context, self.client.list_paginated(Some(prefix), options)).await?;
            objects.extend(page.result.objects.into_iter().map(|meta| Listed {
                key: meta.location.to_string(),
                bytes: meta.size,
                modified: meta.last_modified,
                e_tag: meta.e_tag,
            }));
            prefixes.extend(page.result.common_prefixes.iter().map(|prefix| format!("{prefix}/")));
            token = page.page_token;
            if token.is_none() {
                return Ok((objects, prefixes));
            }
        }
    }

    /// The bytes of the object that was listed, of one content from beginning to end: of that one, or of a newer one that has taken its
    /// place, with what is known of it. `None` when the bucket says that it has gone since.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] when it is overwritten faster than it can be opened.
    pub async fn open(&self, listed: &Listed) -> Result<Option<(Listed, ByteStream)>, Error> {
        let context = format!("cannot read {:?} in bucket {}", listed.key, self.name);
        let path = key(&listed.key)?;
        let mut wanted = listed.clone();
        for _ in 0..OPEN_TRIES {
            let options = GetOptions { if_match: wanted.e_tag.clone(), ..GetOptions::default() };
            match self.client.get_opts(&path, options).await {
                Ok(answer) => return Ok(Some((wanted, self.bytes(answer, context)))),
                Err(object_store::Error::Precondition { .. }) => {}
                Err(error) => {
                    let trouble = Trouble::of(error);
                    if trouble.kind() != ErrorKind::NotFound {
                        return Err(trouble.told(context));
                    }
                }
            }
            let now = self.bucket.look(&path, Weight::Look).await;
            let Some(meta) = now.map_err(|trouble| trouble.told(context.clone()))? else { return Ok(None) };
            wanted = Listed { bytes: meta.size, modified: meta.last_modified, e_tag: meta.e_tag, ..wanted };
        }
        Err(Error::new(ErrorKind::Unavailable, format!("{context}: it is overwritten again and again")))
    }

    fn bytes(&self, answer: GetResult, context: String) -> ByteStream {
        let (chunks, timeout) = (answer.into_stream(), self.bucket.timeout);
        Box::pin(stream::try_unfold((chunks, context), move |(mut chunks, context)| async move {
            match tokio::time::timeout(timeout, chunks.next()).await {
                Err(_) => Err(Trouble::Stalled.told(context)),
                Ok(None) => Ok(None),
                Ok(Some(Ok(chunk))) => Ok(Some((chunk, (chunks, context)))),
                Ok(Some(Err(error))) => Err(Trouble::of(error).told(context)),
            }
        }))
    }

    /// Writes an object of `bytes` bytes from pieces of any size, a small one in one request. What is there already is overwritten. After
    /// an error among the pieces nothing appears.
    pub async fn write(&self, name: &str, bytes: u64, mut pieces: ByteStream) -> Result<(), Error> {
        // No more parts than the service takes.
        let part_size = usize::try_from(bytes.div_ceil(MOST_PARTS)).unwrap_or(PART).max(PART);
        let (path, context) = (key(name)?, format!("cannot write {name:?} to bucket {}", self.name));
        let mut gathered = Vec::new();
        let mut upload: Option<(String, Vec<PartId>)> = None;
        let sent = async {
            while let Some(piece) = pieces.try_next().await? {
                gathered.extend_from_slice(&piece);
                while gathered.len() >= part_size {
                    if upload.is_none() {
                        let id = self.bucket.within(&context, self.bucket.quick.create_multipart(&path)).await?;
                        upload = Some((id, Vec::new()));
                    }
                    let rest = gathered.split_off(part_size);
                    let part = std::mem::replace(&mut gathered, rest);
                    self.put_part(&path, &mut upload, part, &context).await?;
                }
            }
            if upload.is_none() {
                let options = PutOptions::from(PutMode::Overwrite);
                let payload = PutPayload::from(std::mem::take(&mut gathered));
                self.bucket.within(&context, self.bucket.parts.put_opts(&path, payload, options)).await?;
                return Ok(());
            }
            if !gathered.is_empty() {
                let part = std::mem::take(&mut gathered);
                self.put_part(&path, &mut upload, part, &context).await?;
            }
            if let Some((id, parts)) = &mut upload {
                let parts = std::mem::take(parts);
                self.bucket.within(&context, self.bucket.parts.complete_multipart(&path, id, parts)).await?;
            }
            Ok(())
        }
        .await;
        if sent.is_err()
            && let Some((id, _)) = &upload
            && let Err(trouble) = self.bucket.abort(&path, id).await
        {
            tracing::warn!(object = name, %trouble, "cannot end an upload that failed");
        }
        sent
    }

    async fn put_part(
        &self,
        path: &Path,
        upload: &mut Option<(String, Vec<PartId>)>,
        part: Vec<u8>,
        context: &str,
    ) -> Result<(), Error> {
        let Some((id, parts)) = upload else { return Ok(()) };
        let sent = self.bucket.parts.put_part(path, id, parts.len(), PutPayload::from(part));
        parts.push(self.bucket.within(context, sent).await?);
        Ok(())
    }

    /// Deletes an object; success when it is gone.
    pub async fn remove(&self, name: &str) -> Result<(), Error> {
        let path = key(name)?;
        match self.bucket.ask(self.bucket.quick.delete(&path)).await {
            Err(trouble) if trouble.kind() == ErrorKind::NotFound => Ok(()),
            other => other.map_err(|trouble| trouble.told(format!("cannot delete {name:?} in bucket {}", self.name))),
        }
    }
}

/// A key as it is, or none at all: the library would change some.
fn key(name: &str) -> Result<Path, Error> {
    let path = Path::parse(name).ok().filter(|path| path.as_ref() == name && name.len() <= 1024);
    path.ok_or_else(|| Error::new(ErrorKind::Invalid, format!("{name:?} cannot be a key in a bucket")))
}
