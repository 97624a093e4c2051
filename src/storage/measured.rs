//! Any storage, with its errors, uploads and bytes counted under the name that the configuration gives it.

use futures::StreamExt;

use super::*;
use crate::metrics::{self, UploadEnd};

/// Wraps every storage that [`open`](super::open) builds.
#[derive(Debug)]
pub struct Measured {
    name: Arc<str>,
    inner: Arc<dyn Storage>,
}

impl Measured {
    pub fn wrap(name: &str, inner: Arc<dyn Storage>) -> Arc<dyn Storage> {
        Arc::new(Self { name: name.into(), inner })
    }

    fn seen<T>(&self, result: Result<T, Error>) -> Result<T, Error> {
        seen(&self.name, result)
    }
}

fn seen<T>(name: &str, result: Result<T, Error>) -> Result<T, Error> {
    if let Err(error) = &result {
        metrics::storage_error(name, error.kind.code());
    }
    result
}

#[async_trait]
impl Storage for Measured {
    fn limits(&self) -> Limits {
        self.inner.limits()
    }

    async fn create(&self, new: NewObject<'_>) -> Result<Box<dyn Upload>, Error> {
        let upload = self.seen(self.inner.create(new).await)?;
        Ok(Box::new(MeasuredUpload { name: Arc::clone(&self.name), upload }))
    }

    async fn open(&self, at: &Locator, range: Option<ByteRange>) -> Result<ByteStream, Error> {
        let name = Arc::clone(&self.name);
        let stream = self.seen(self.inner.open(at, range).await)?;
        Ok(stream
            .map(move |chunk| {
                if let Ok(bytes) = &chunk {
                    metrics::storage_read(&name, bytes.len() as u64);
                }
                seen(&name, chunk)
            })
            .boxed())
    }

    async fn stat(&self, at: &Locator) -> Result<Stat, Error> {
        self.seen(self.inner.stat(at).await)
    }

    async fn find(&self, name: &ArtifactName) -> Result<Option<Locator>, Error> {
        self.seen(self.inner.find(name).await)
    }

    async fn delete(&self, at: &Locator) -> Result<Deletion, Error> {
        self.seen(self.inner.delete(at).await)
    }

    async fn probe(&self, depth: ProbeDepth) -> Result<Probe, Error> {
        self.seen(self.inner.probe(depth).await)
    }

    async fn sweep_temporary(&self, modified_before: SystemTime) -> Result<u64, Error> {
        self.seen(self.inner.sweep_temporary(modified_before).await)
    }

    fn objects(&self) -> Option<Objects> {
        self.inner.objects()
    }

    fn s3_address(&self, at: &Locator) -> Option<S3Address> {
        self.inner.s3_address(at)
    }

    async fn in_chat(&self, chat_id: i64) -> Result<Option<Arc<dyn Storage>>, Error> {
        let found = self.seen(self.inner.in_chat(chat_id).await)?;
        Ok(found.map(|inner| Arc::new(Self { name: Arc::clone(&self.name), inner }) as Arc<dyn Storage>))
    }

    fn gathers_parts(&self) -> bool {
        self.inner.gathers_parts()
    }

    fn takes_plaintext(&self) -> bool {
        self.inner.takes_plaintext()
    }

    fn manifests(&self) -> BoxStream<'_, Result<Locator, Error>> {
        self.inner.manifests().map(|found| self.seen(found)).boxed()
    }
}

struct MeasuredUpload {
    name: Arc<str>,
    upload: Box<dyn Upload>,
}

#[async_trait]
impl Upload for MeasuredUpload {
    async fn put(&mut self, part: Bytes) -> Result<(), Error> {
        let bytes = part.len() as u64;
        seen(&self.name, self.upload.put(part).await)?;
        metrics::storage_written(&self.name, bytes);
        Ok(())
    }

    async fn commit(self: Box<Self>) -> Result<Locator, Error> {
        let committed = seen(&self.name, self.upload.commit().await);
        metrics::upload_ended(&self.name, if committed.is_ok() { UploadEnd::Committed } else { UploadEnd::Failed });
        committed
    }

    async fn abort(self: Box<Self>) {
        self.upload.abort().await;
        metrics::upload_ended(&self.name, UploadEnd::Aborted);
    }
}
