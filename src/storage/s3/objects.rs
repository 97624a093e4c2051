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

use super::{
    Bucket, MOST_PARTS, Weight,
    trouble::Trouble,
    upload::{Begun, begin},
};
use crate::{
    clock::Timestamp,
    ids::LeaseToken,
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

/// An object on its way in parts.
struct Parts {
    begun: Begun,
    sent: Vec<PartId>,
    /// What tells the content that is overwritten.
    before: Option<String>,
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
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`] also when the answer was lost that would have said whether the object is there.
    pub async fn write(&self, name: &str, bytes: u64, mut pieces: ByteStream) -> Result<(), Error> {
        // No more parts than the service takes.
        let part_size = usize::try_from(bytes.div_ceil(MOST_PARTS)).unwrap_or(PART).max(PART);
        let (path, context) = (key(name)?, format!("cannot write {name:?} to bucket {}", self.name));
        let told = |error: object_store::Error| Trouble::of(error).told(context.clone());
        let mut gathered = Vec::new();
        let mut upload: Option<Parts> = None;
        let sent = async {
            while let Some(piece) = pieces.try_next().await? {
                gathered.extend_from_slice(&piece);
                while gathered.len() >= part_size {
                    let rest = gathered.split_off(part_size);
                    let part = std::mem::replace(&mut gathered, rest);
                    let upload = match &mut upload {
                        Some(upload) => upload,
                        None => upload.insert(self.begin(&path, &context).await?),
                    };
                    self.put_part(&path, upload, part).await.map_err(told)?;
                }
            }
            let Some(upload) = &mut upload else {
                let payload = PutPayload::from(std::mem::take(&mut gathered));
                let options = PutOptions::from(PutMode::Overwrite);
                return self.bucket.overwriting.put_opts(&path, payload, options).await.map(drop).map_err(told);
            };
            if !gathered.is_empty() {
                let part = std::mem::take(&mut gathered);
                self.put_part(&path, upload, part).await.map_err(told)?;
            }
            self.complete(&path, upload, bytes, &context).await
        }
        .await;
        let Some(Parts { begun, .. }) = &upload else { return sent };
        match if sent.is_ok() { Ok(()) } else { self.bucket.abort(&path, &begun.id).await } {
            Ok(()) => self.bucket.forget(&path, &begun.id).await,
            Err(trouble) => tracing::warn!(object = name, %trouble, "an upload that failed is left to the sweep"),
        }
        sent
    }

    async fn begin(&self, path: &Path, context: &str) -> Result<Parts, Error> {
        let before = self.bucket.look(path, Weight::Look).await.map_err(|trouble| trouble.told(context))?;
        let begun = begin(Arc::clone(&self.bucket), path.clone(), LeaseToken::generate()).await?;
        Ok(Parts { begun, sent: Vec::new(), before: before.and_then(|meta| meta.e_tag) })
    }

    /// As long as it takes, while bytes move.
    async fn put_part(&self, path: &Path, upload: &mut Parts, part: Vec<u8>) -> object_store::Result<()> {
        upload.begun.keep(&self.bucket).await;
        let number = upload.sent.len();
        let sent = self.bucket.overwriting.put_part(path, &upload.begun.id, number, PutPayload::from(part)).await?;
        upload.sent.push(sent);
        Ok(())
    }

    /// The library asks again when an answer is lost, and is then refused an upload that is over: what lies there decides.
    async fn complete(&self, path: &Path, upload: &mut Parts, bytes: u64, context: &str) -> Result<(), Error> {
        let parts = std::mem::take(&mut upload.sent);
        let trouble = match self.bucket.overwriting.complete_multipart(path, &upload.begun.id, parts).await {
            Ok(_) => return Ok(()),
            Err(error) => Trouble::of(error),
        };
        let there = self.bucket.look(path, Weight::Look).await;
        if let Ok(Some(there)) = there
            && there.size == bytes
            && there.e_tag != upload.before
        {
            return Ok(());
        }
        // Of the same content once more, and of a lost answer, nobody can say what became.
        if trouble.kind() == ErrorKind::NotFound {
            let context = format!("{context}: an answer was lost, and then");
            return Err(Error::new(ErrorKind::Unavailable, context).with_source(trouble));
        }
        Err(trouble.told(context))
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
