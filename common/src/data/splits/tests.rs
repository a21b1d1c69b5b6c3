use serde::Deserialize;

use super::*;

/// A data set of empty files.
fn data_set(files: &[String], readme: Option<&str>) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for file in files {
        let path = folder.path().join(file);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, "").unwrap();
    }
    if let Some(readme) = readme {
        fs_err::write(folder.path().join("README.md"), readme).unwrap();
    }
    folder
}

fn names(root: &Path, splits: &[Split]) -> Vec<(String, Vec<String>)> {
    let name = |file: &PathBuf| file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
    splits.iter().map(|split| (split.name.clone(), split.files.iter().map(name).collect())).collect()
}

/// `scripts/golden/splits.py` asks the datasets library.
#[test]
fn splits_are_those_of_the_datasets_library() {
    #[derive(Deserialize)]
    struct Golden {
        files: Vec<String>,
        readme: Option<String>,
        subset: Option<String>,
        folder: Option<String>,
        #[serde(default)]
        splits: Vec<(String, Vec<String>)>,
        error: Option<String>,
    }
    let text = include_str!("../../../../tests/golden/splits.json");
    let golden: Vec<Golden> = serde_json::from_str(text).unwrap();
    for Golden { files, readme, subset, folder, splits: expected, error } in golden {
        let root = data_set(&files, readme.as_deref());
        let found = splits(root.path(), subset.as_deref(), folder.as_deref());
        let what = format!("{files:?}, {readme:?}, subset {subset:?}, folder {folder:?}: {found:?}");
        match (found, error) {
            (Ok(found), None) => assert_eq!(names(root.path(), &found), expected, "{what}"),
            (Ok(found), Some(_)) => assert!(found.iter().all(|split| split.files.is_empty()), "{what}"),
            (Err(_), error) => assert!(error.is_some(), "{what}"),
        }
    }
}

#[test]
fn a_subset_of_no_readme_is_a_folder() {
    let files = ["en/train.json", "en/test.json", "de/a.json", "fetch.json"].map(str::to_owned);
    let root = data_set(&files, None);
    let found = splits(root.path(), Some("de"), None).unwrap();
    assert_eq!(names(root.path(), &found), [("train".to_owned(), vec!["de/a.json".to_owned()])]);
    let error = splits(root.path(), Some("fr"), None).unwrap_err();
    assert_eq!(error.hint_text().unwrap(), "its folders are de, en");
    for outside in ["..", "/etc", "en/../../x"] {
        let error = splits(root.path(), None, Some(outside)).unwrap_err();
        assert!(error.to_string().contains("a folder of the data set expected"), "{error}");
    }
}

#[test]
fn a_readme_that_cannot_be_followed_is_an_error() {
    let files = ["a.json".to_owned()];
    for (configs, expected) in [
        ("configs:\n- config_name: [\n", "README.md"),
        ("configs: 3\n", "README.md"),
        ("configs:\n- data_files: a.json\n", "config_name"),
        ("configs:\n- config_name: x\n  data_files: {train: a.json}\n", "no patterns of files"),
        ("configs:\n- config_name: x\n  data_files: [{split: train}]\n", "no patterns of files"),
        ("configs:\n- config_name: x\n  data_files: 'a[.json'\n", "data_files: \"a[.json\""),
        ("configs:\n- config_name: x\n  data_files: https://host/a.json\n", "no file of the data set"),
        (&format!("configs:\n- config_name: x\n  data_files: '{}'\n", "[a-z]?".repeat(9999)), "1000 bytes"),
        ("configs:\n- config_name: x\n  data_dir: ../y\n", "a folder of the data set expected"),
    ] {
        let root = data_set(&files, Some(&format!("---\n{configs}---\n")));
        let error = splits(root.path(), None, None).unwrap_err();
        assert!(error.to_string().contains(expected), "{configs}: {error}");
    }
    for readme in [
        "---\ntags: [\n---\n",
        "---\nconfigs:\n---\n",
        "---\nconfigs: []\n",
        "---\nlicense: a\nlicense: b\nconfigs:\n- config_name: x\n---\n",
        "\u{FEFF}---\r\nconfigs:\r\n- config_name: x\r\n  data_files: a.json\r\n---\r\n",
    ] {
        let root = data_set(&files, Some(readme));
        assert_eq!(splits(root.path(), None, None).unwrap().len(), 1, "{readme:?}");
    }
}
