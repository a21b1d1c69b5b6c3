//! Opening directories: what is found, and what is refused.

use std::path::Path;
use std::sync::LazyLock;

use proptest::prelude::*;

use super::*;

fn tensor(name: &str, bytes: &[u8]) -> Tensor {
    Tensor { name: name.into(), dtype: Dtype::U8, shape: vec![bytes.len()], bytes: bytes.to_vec().into() }
}

fn write_index(directory: &Path, map: &[(&str, &str)]) {
    let weight_map = map.iter().map(|(name, file)| (name.to_string(), file.to_string())).collect();
    let index = Index { weight_map, ..Index::default() };
    std::fs::write(directory.join(INDEX), index.to_json().unwrap()).unwrap();
}

fn error_of(directory: &Path) -> String {
    Checkpoint::open(directory).unwrap_err().to_string()
}

#[test]
fn shards_are_read_through_their_index() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (first, second) = (sharded_name(1, 2), sharded_name(2, 2));
    write_file(&path.join(&first), &[tensor("a", &[1]), tensor("b", &[2, 3])]).unwrap();
    write_file(&path.join(&second), &[tensor("c", &[4])]).unwrap();
    write_index(path, &[("a", &first), ("b", &first), ("c", &second)]);
    let checkpoint = Checkpoint::open(path).unwrap();
    assert_eq!(checkpoint.names().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!(&*checkpoint.tensor("b").unwrap().bytes, [2, 3]);
    assert!(checkpoint.get("d").is_none());
    let error = checkpoint.tensor("d").unwrap_err().to_string();
    assert!(error.ends_with("has no tensor d"), "{error}");
}

#[test]
fn what_contradicts_the_index_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write_file(&path.join("one.safetensors"), &[tensor("a", &[1])]).unwrap();
    write_file(&path.join("two.safetensors"), &[tensor("b", &[1])]).unwrap();

    write_index(path, &[("a", "one.safetensors"), ("x", "two.safetensors")]);
    assert!(error_of(path).contains("tensor x is missing from"), "{}", error_of(path));
    write_index(path, &[("b", "one.safetensors"), ("a", "two.safetensors")]);
    assert!(error_of(path).contains("the index says"), "{}", error_of(path));
    write_index(path, &[("a", "one.safetensors"), ("b", "three.safetensors")]);
    assert!(error_of(path).contains("three.safetensors"), "{}", error_of(path));
    for outside in ["../one.safetensors", "/etc/passwd", "x/../one.safetensors", "..", "", "x\\y"] {
        write_index(path, &[("a", outside)]);
        assert!(error_of(path).contains("no plain name"), "{outside}: {}", error_of(path));
    }
    write_index(path, &[]);
    assert!(error_of(path).contains("names no tensor"));
    let many: Vec<String> = (0..=header::MOST_TENSORS).map(|i| i.to_string()).collect();
    write_index(path, &many.iter().map(|name| (name.as_str(), "one.safetensors")).collect::<Vec<_>>());
    assert!(error_of(path).contains("more than 200000 tensors"), "{}", error_of(path));

    write_file(&path.join("two.safetensors"), &[tensor("a", &[1]), tensor("b", &[1])]).unwrap();
    write_index(path, &[("a", "one.safetensors"), ("b", "two.safetensors")]);
    assert!(error_of(path).contains("tensor a is both in"), "{}", error_of(path));
}

#[test]
fn a_directory_without_safetensors_says_what_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("fetch"));
    std::fs::write(directory.path().join("pytorch_model.bin"), "").unwrap();
    let error = Checkpoint::open(directory.path()).unwrap_err();
    assert!(error.hint_text().unwrap().contains("pickle"));
    assert!(error_of(&directory.path().join("nowhere")).contains("is not a directory"));
}

#[test]
fn a_damaged_file_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(SINGLE);
    write_file(&file, &[tensor("a", &[1; 100])]).unwrap();
    let bytes = std::fs::read(&file).unwrap();
    std::fs::write(&file, &bytes[..bytes.len() - 1]).unwrap();
    let error = error_of(directory.path());
    assert!(error.contains(SINGLE) && error.contains("truncated"), "{error}");
}

static VALID_FILE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join(SINGLE);
    let tensors = [tensor("a", &[1; 17]), tensor("b", &[2; 5]), Tensor::from_f32("c", vec![2, 2], &[0.5; 4])];
    write_file(&file, &tensors).unwrap();
    std::fs::read(&file).unwrap()
});

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// A mutated file is read within its bounds or refused; it never panics.
    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
        length in prop::option::of(any::<u64>()),
    ) {
        let mut bytes = VALID_FILE.clone();
        for (index, byte) in changes {
            let position = index.index(bytes.len());
            bytes[position] = byte;
        }
        if let Some(length) = length {
            bytes[..8].copy_from_slice(&length.to_le_bytes());
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if let Ok(header) = Header::read(&bytes) {
            for entry in header.tensors {
                prop_assert_eq!(bytes[entry.range].len(), header::size_in_bytes(entry.dtype, &entry.shape).unwrap());
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is written comes back.
    #[test]
    fn written_tensors_come_back(
        tensors in prop::collection::btree_map("[a-z.\"é]{1,12}", prop::collection::vec(any::<u8>(), 0..50), 0..6),
    ) {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join(SINGLE);
        let tensors: Vec<Tensor> = tensors.iter().map(|(name, bytes)| tensor(name, bytes)).collect();
        write_file(&file, &tensors).unwrap();
        let read = Checkpoint::open(directory.path()).unwrap();
        prop_assert_eq!(read.names().count(), tensors.len());
        for tensor in tensors {
            let found = read.tensor(&tensor.name).unwrap();
            prop_assert_eq!(found.shape, tensor.shape);
            prop_assert_eq!(&*found.bytes, &*tensor.bytes);
        }
    }
}
