//! Scripts, styles and pictures of the pages: part of the program, served under names that hold their digest and so kept by browsers for good.

use std::{collections::BTreeMap, io::Write as _, sync::LazyLock};

use axum::{
    Router,
    extract::Path,
    http::{
        HeaderMap, HeaderValue, StatusCode,
        header::{ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, VARY},
    },
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use rust_embed::RustEmbed;

#[derive(RustEmbed)]
#[folder = "assets/"]
#[include = "*.css"]
#[include = "*.js"]
#[include = "*.svg"]
struct Files;

/// One file as it is sent.
struct Asset {
    media_type: &'static str,
    plain: Bytes,
    gzip: Bytes,
}

/// Everything that can be asked for, by its name with the digest.
struct Shelf {
    served: BTreeMap<String, Asset>,
    /// The name with the digest, by the name without.
    names: BTreeMap<String, String>,
}

static SHELF: LazyLock<Shelf> = LazyLock::new(|| {
    let mut shelf = Shelf { served: BTreeMap::new(), names: BTreeMap::new() };
    for path in Files::iter() {
        let Some(file) = Files::get(&path) else { continue };
        let name = path.rsplit('/').next().unwrap_or(&path).to_owned();
        let Some((stem, extension)) = name.rsplit_once('.') else { continue };
        let digest: String = file.metadata.sha256_hash().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let plain = Bytes::from(file.data.into_owned());
        let media_type = match extension {
            "css" => "text/css; charset=utf-8",
            "js" => "text/javascript; charset=utf-8",
            _ => "image/svg+xml",
        };
        let served = format!("{stem}-{digest}.{extension}");
        shelf.names.insert(name.clone(), format!("/assets/{served}"));
        shelf.served.insert(served, Asset { media_type, gzip: compressed(&plain, Compression::best()), plain });
    }
    shelf
});

/// In the form of gzip; as it is where that fails.
pub fn compressed(bytes: &Bytes, level: Compression) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), level);
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.map_or_else(|_| bytes.clone(), Bytes::from)
}

/// Where a file of `assets/` is served, such as `/assets/style-0123456789abcdef.css`.
pub fn path(name: &str) -> &'static str {
    SHELF.names.get(name).map_or("/assets/none", String::as_str)
}

/// The files. Public, and the same for everyone: no rights are asked for, and no limit counts them.
pub fn router() -> Router {
    Router::new().route("/assets/{name}", get(serve))
}

/// Whether the browser reads gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    let mut values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.any(|value| value.split(',').any(|coding| coding.trim() == "gzip"))
}

async fn serve(Path(name): Path<String>, headers: HeaderMap) -> Response {
    let Some(asset) = SHELF.served.get(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let takes_gzip = takes_gzip(&headers);
    let bytes = if takes_gzip { &asset.gzip } else { &asset.plain };
    let mut response = bytes.clone().into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.media_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable"));
    headers.insert(VARY, HeaderValue::from_static("accept-encoding"));
    if takes_gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

#[cfg(test)]
mod tests {
    use sha2::{Digest, Sha256};

    use super::*;

    #[test]
    fn files_of_others_are_those_that_were_looked_at() {
        let listed = include_str!("../../../assets/vendor/SHA256SUMS");
        assert!(listed.lines().count() >= 3);
        for line in listed.lines() {
            let (digest, name) = line.split_once("  ").unwrap();
            let file = Files::get(&format!("vendor/{name}")).unwrap_or_else(|| panic!("{name} is not served"));
            let found: String = Sha256::digest(&file.data).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(found, digest, "{name}");
        }
    }

    #[test]
    fn a_first_visit_takes_less_than_150_kilobytes() {
        let all: usize = SHELF.served.values().map(|asset| asset.gzip.len()).sum();
        // Pages themselves are below 40 KB with the lists' usual length.
        assert!(all < 110 * 1024, "{all} bytes");
    }
}
