//! From the bytes of a file as stored to its text: decompressed, in UTF-8, without a byte order mark.

use std::future::ready;

use bytes::Bytes;
use datafusion::common::parsers::CompressionTypeVariant;
use datafusion::datasource::file_format::file_compression_type::FileCompressionType;
use datafusion::error::DataFusionError;
use encoding_rs::{Decoder, DecoderResult, Encoding, UTF_8};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};

use super::utf8::newlines;
use super::{Compression, StoredBytes};
use crate::error::{Error, Result};

/// The longest byte order mark.
const MARK_BYTES: usize = 3;
/// Room for characters that get longer than what they are made from.
const SPARE_BYTES: usize = 64;

/// What a file consists of.
pub(super) type Chunks = BoxStream<'static, Result<Bytes>>;

/// The text of a file.
pub(super) struct Text {
    pub chunks: Chunks,
    /// Whether it is known to be UTF-8.
    pub is_utf8: bool,
}

/// The content of a file that may be compressed. A file without a byte has no content, however it is compressed.
pub(super) async fn decompressed(
    compression: Compression,
    file: &str,
    mut bytes: StoredBytes,
) -> Result<Chunks> {
    let (variant, name) = variant(compression, file);
    if !variant.is_compressed() {
        return Ok(bytes.map_err(Error::from).boxed());
    }
    let head = first_bytes(&mut bytes, 1).await?;
    if head.is_empty() {
        return Ok(stream::empty().boxed());
    }
    let bytes = stream::once(ready(Ok(head))).chain(bytes);
    let bytes = bytes.map_err(|error| DataFusionError::ObjectStore(Box::new(error)));
    let content = FileCompressionType::from(variant).convert_stream(bytes.boxed())?;
    let file = file.to_owned();
    Ok(content
        .map_err(move |error| explained(&file, name, error))
        .boxed())
}

/// Whether a file is compressed from outside.
pub(in crate::source::files) fn is_compressed(compression: Compression, file: &str) -> bool {
    variant(compression, file).0.is_compressed()
}

fn variant(compression: Compression, file: &str) -> (CompressionTypeVariant, &'static str) {
    use CompressionTypeVariant::{BZIP2, GZIP, UNCOMPRESSED, XZ, ZSTD};
    let variant = match compression {
        Compression::Of(variant) => variant,
        Compression::Auto => {
            let ending = file.rsplit_once('.').map_or("", |(_, ending)| ending);
            match ending.to_ascii_lowercase().as_str() {
                "gz" => GZIP,
                "bz2" => BZIP2,
                "xz" => XZ,
                "zst" | "zstd" => ZSTD,
                _ => UNCOMPRESSED,
            }
        }
    };
    let name = match variant {
        GZIP => "gzip",
        BZIP2 => "bzip2",
        XZ => "xz",
        ZSTD => "zstd",
        UNCOMPRESSED => "uncompressed",
    };
    (variant, name)
}

/// An error of decompression, or of the store below it.
fn explained(file: &str, name: &str, error: DataFusionError) -> Error {
    let error = match error {
        DataFusionError::ObjectStore(error) => return Error::ObjectStore(*error),
        DataFusionError::IoError(error) => error,
        other => return other.into(),
    };
    match error.downcast::<DataFusionError>() {
        Ok(inner) => explained(file, name, inner),
        Err(error) => Error::invalid(format!(
            "{file} is cut off or is not {name} ({error}); put it there again in one piece, or give the option compression that it has"
        )),
    }
}

/// The first bytes, at least so many unless there are fewer.
async fn first_bytes<E>(
    bytes: &mut BoxStream<'static, Result<Bytes, E>>,
    least: usize,
) -> Result<Bytes, E> {
    let mut head = Bytes::new();
    while head.len() < least {
        match bytes.try_next().await? {
            Some(chunk) if head.is_empty() => head = chunk,
            Some(chunk) => head = [head, chunk].concat().into(),
            None => break,
        }
    }
    Ok(head)
}

/// The text of a file in an encoding, or in the one that its byte order mark tells.
pub(super) async fn text(
    encoding: &'static Encoding,
    file: &str,
    mut bytes: Chunks,
) -> Result<Text> {
    let mut head = first_bytes(&mut bytes, MARK_BYTES).await?;
    let (encoding, mark) = Encoding::for_bom(&head).unwrap_or((encoding, 0));
    let head = head.split_off(mark);
    let chunks = stream::once(ready(Ok(head))).chain(bytes).boxed();
    if encoding == UTF_8 {
        return Ok(Text {
            chunks,
            is_utf8: false,
        });
    }
    let transcoder = Transcoder {
        decoder: encoding.new_decoder_without_bom_handling(),
        encoding,
        file: file.to_owned(),
        lines: 0,
    };
    Ok(Text {
        chunks: transcoder.transcoded(chunks),
        is_utf8: true,
    })
}

/// Turns text into UTF-8.
struct Transcoder {
    decoder: Decoder,
    encoding: &'static Encoding,
    file: String,
    lines: u64,
}

impl Transcoder {
    fn transcoded(self, chunks: Chunks) -> Chunks {
        stream::try_unfold(
            (chunks, Some(self)),
            |(mut chunks, transcoder)| async move {
                let Some(mut transcoder) = transcoder else {
                    return Ok::<_, Error>(None);
                };
                match chunks.try_next().await? {
                    Some(chunk) => {
                        let text = transcoder.decode(&chunk, false)?;
                        Ok(Some((text, (chunks, Some(transcoder)))))
                    }
                    None => Ok(Some((transcoder.decode(&[], true)?, (chunks, None)))),
                }
            },
        )
        .boxed()
    }

    fn decode(&mut self, mut bytes: &[u8], is_last: bool) -> Result<Bytes> {
        let mut text = String::new();
        loop {
            text.reserve(bytes.len() + SPARE_BYTES);
            let (result, read) = self
                .decoder
                .decode_to_string_without_replacement(bytes, &mut text, is_last);
            bytes = &bytes[read..];
            match result {
                DecoderResult::InputEmpty => break,
                DecoderResult::OutputFull => {}
                DecoderResult::Malformed(_, _) => {
                    let line = self.lines + newlines(text.as_bytes()) + 1;
                    return Err(Error::invalid(format!(
                        "{} line {line}: the text is not {}; give the option encoding that the file has",
                        self.file,
                        self.encoding.name()
                    )));
                }
            }
        }
        self.lines += newlines(text.as_bytes());
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(encoding: &'static Encoding, bytes: &[u8], step: usize) -> Result<String> {
        let chunks = bytes.chunks(step).map(Bytes::copy_from_slice);
        let chunks: Vec<Result<Bytes>> = chunks.map(Ok).collect();
        let text = text(encoding, "f.csv", stream::iter(chunks).boxed()).await?;
        let chunks: Vec<Bytes> = text.chunks.try_collect().await?;
        Ok(String::from_utf8(chunks.concat()).unwrap())
    }

    async fn check(encoding: &'static Encoding, bytes: &[u8], expected: &str) {
        for step in [1, 2, 3, 100] {
            assert_eq!(
                read(encoding, bytes, step).await.unwrap(),
                expected,
                "{step}"
            );
        }
    }

    #[tokio::test]
    async fn encodings_become_utf8() {
        check(UTF_8, b"", "").await;
        check(UTF_8, b"a", "a").await;
        check(UTF_8, b"\xef\xbb\xbfa\xc3\xa9", "aé").await;
        check(encoding_rs::WINDOWS_1252, b"a\xe9\x80", "aé€").await;
        check(encoding_rs::UTF_16LE, b"a\0\xe9\0", "aé").await;
        check(UTF_8, b"\xff\xfea\0\xe9\0", "aé").await;
        check(encoding_rs::SHIFT_JIS, b"\x93\xfa\n", "日\n").await;
    }

    #[tokio::test]
    async fn what_is_not_of_the_encoding_is_an_error() {
        for step in [1, 2, 100] {
            let error = read(encoding_rs::SHIFT_JIS, b"a\nb\x93", step).await;
            let error = error.unwrap_err().to_string();
            assert!(
                error.starts_with("f.csv line 2: the text is not Shift_JIS"),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn compressions_are_undone() {
        use CompressionTypeVariant::{BZIP2, GZIP, XZ, ZSTD};
        for (variant, ending) in [(GZIP, "gz"), (BZIP2, "bz2"), (XZ, "XZ"), (ZSTD, "zst")] {
            let text = "some text\n".repeat(5000);
            let plain = stream::once(ready(Ok(Bytes::from(text.clone())))).boxed();
            let packed = FileCompressionType::from(variant)
                .convert_to_compress_stream(plain)
                .unwrap();
            let packed: Vec<Bytes> = packed.try_collect().await.unwrap();
            let packed = packed.concat();
            let name = format!("f.csv.{ending}");
            let unpack = async |bytes: &[u8], step: usize| -> Result<Vec<u8>> {
                let chunks: Vec<object_store::Result<Bytes>> = bytes
                    .chunks(step)
                    .map(|chunk| Ok(Bytes::copy_from_slice(chunk)))
                    .collect();
                let chunks = stream::iter(chunks).boxed();
                let content = decompressed(Compression::Auto, &name, chunks).await?;
                Ok(content.try_collect::<Vec<Bytes>>().await?.concat())
            };
            for step in [1, 7, 100_000] {
                assert_eq!(unpack(&packed, step).await.unwrap(), text.as_bytes());
            }
            assert!(unpack(b"", 1).await.unwrap().is_empty());
            let error = unpack(b"id,name\n1,a\n", 3).await.unwrap_err().to_string();
            assert!(error.contains("is cut off or is not"), "{error}");
            let cut = unpack(&packed[..packed.len() / 2], 7).await;
            let error = cut.unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{name} is cut off or is not ")),
                "{error}"
            );
        }
    }

    #[tokio::test]
    async fn errors_of_the_store_pass_through() {
        let error = object_store::Error::NotFound {
            path: "p".to_owned(),
            source: "gone".into(),
        };
        let chunks = stream::iter(vec![Ok(Bytes::from_static(b"\x1f\x8b")), Err(error)]).boxed();
        let content = decompressed(Compression::Auto, "f.gz", chunks)
            .await
            .unwrap();
        let error = content.try_collect::<Vec<Bytes>>().await.unwrap_err();
        assert!(matches!(error, Error::ObjectStore(_)), "{error}");
    }
}
