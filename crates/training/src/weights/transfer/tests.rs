use std::fs;

use burn::{store::SafetensorsStore, tensor::Device};

use super::*;
use crate::{
    parameters::each_number,
    tests::{Net, place},
    weights::{digest, file::read_safetensors, write},
};

/// A checkpoint of PyTorch 2.9 as `{"epoch": 3, "state_dict": …, "optimizer": …}`: `first` and `norm` as in [`Net`], and
/// `second` with three outputs. Tensor number i of the state dict is `torch.arange(n).reshape(shape) / 8 + i`.
const CHECKPOINT: &[u8] = include_bytes!("../../tests/net.pt");

fn numbers(net: &Net) -> BTreeMap<String, Vec<f64>> {
    let mut numbers = BTreeMap::new();
    each_number(net, None, |parameter, values| {
        numbers.insert(name(&parameter.path, "net").to_owned(), values.collect());
        true
    })
    .unwrap();
    numbers
}

fn transferred(bytes: &[u8]) -> Result<(Net, Transferred), WeightsError> {
    let place = place();
    let path = place.path().join("weights");
    fs::write(&path, bytes).unwrap();
    transfer(Net::new(&Device::flex()), "net", &path)
}

#[test]
fn a_checkpoint_of_pytorch_gives_what_has_the_same_names_and_shapes() {
    let (net, found) = transferred(CHECKPOINT).unwrap();
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let taken = ["first.weight", "first.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"];
    assert_eq!(found.taken, names(&taken));
    let fresh = ["second.weight (2x4 here, 3x4 in the file)", "second.bias (2 here, 3 in the file)"];
    assert_eq!((found.fresh, found.unused), (names(&fresh), Vec::new()));
    assert_eq!(found.sha256.len(), 64);
    let (numbers, before) = (numbers(&net), numbers(&Net::new(&Device::flex())));
    // Burn's layout is `[inputs, outputs]`.
    assert_eq!(numbers["first.weight"][..5], [0.0, 0.375, 0.75, 1.125, 0.125]);
    assert_eq!(numbers["norm.gamma"], [2.0, 2.125, 2.25, 2.375]);
    assert_eq!(numbers["norm.running_var"], [5.0, 5.125, 5.25, 5.375]);
    assert_eq!(numbers["second.weight"], before["second.weight"]);
}

#[test]
fn a_file_of_another_network_gives_its_tensors_and_says_which_are_left() {
    let device = Device::flex();
    // As long as the name that it replaces, so that the header stays what it is.
    let file = replaced(&write(&Net::numbered(3, &device), "net").unwrap(), "second.bias", "first.scale");
    let (net, found) = transferred(&file).unwrap();
    assert_eq!((found.fresh, found.unused), (vec!["second.bias".to_owned()], vec!["first.scale".to_owned()]));
    let (found, wanted) = (numbers(&net), numbers(&Net::numbered(3, &device)));
    assert_eq!(found["second.weight"], wanted["second.weight"]);
    assert_eq!(found["norm.beta"], wanted["norm.beta"]);
    assert_eq!(found["second.bias"], numbers(&Net::new(&device))["second.bias"]);
}

fn replaced(file: &[u8], from: &str, to: &str) -> Vec<u8> {
    let at = file.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    [&file[..at], to.as_bytes(), &file[at + from.len()..]].concat()
}

#[test]
fn files_without_the_networks_tensors_and_files_that_are_none_are_errors() {
    let device = Device::flex();
    let refused = |bytes: &[u8]| transferred(bytes).unwrap_err().to_string();
    let mut foreign = write(&Net::new(&device), "net").unwrap();
    for layer in ["first.weight", "first.bias", "second.weight", "second.bias"] {
        foreign = replaced(&foreign, layer, &layer.replace('t', "x").replace('e', "y"));
    }
    for norm in ["norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"] {
        foreign = replaced(&foreign, norm, &norm.replace('n', "y"));
    }
    let message = refused(&foreign);
    assert!(
        message.contains("no tensor has the name and the shape of one of the network's (the file has `"),
        "{message}"
    );
    assert!(message.contains("the network `first.bias`, `first.weight`, "), "{message}");
    for bytes in [&b""[..], b"PK", b"hello, world", &[0; 100], &CHECKPOINT[..100], &CHECKPOINT[..3000], &foreign[..60]]
    {
        assert!(refused(bytes).starts_with("weights: "));
    }
    let mut spoilt = write(&Net::new(&device), "net").unwrap();
    let last = spoilt.len() - 4;
    spoilt[last..].copy_from_slice(&f32::NAN.to_le_bytes());
    let message = refused(&spoilt);
    assert!(message.contains("has a number that is not finite as F32 (NaN)"), "{message}");
    let missing = transfer(Net::new(&device), "net", Path::new("/nowhere/weights")).unwrap_err().to_string();
    assert!(missing.starts_with("weights: /nowhere/weights: "), "{missing}");
}

#[test]
fn a_file_of_another_kind_is_told_with_its_path_and_what_would_do() {
    let place = place();
    let path = place.path().join("x.py");
    fs::write(&path, "print('weights')").unwrap();
    let message = transfer(Net::new(&Device::flex()), "net", &path).unwrap_err().to_string();
    let wanted = "expected weights as .safetensors, or as PyTorch's .pt of a state_dict, found neither";
    assert_eq!(message, format!("weights: {}: {wanted}", path.display()));
    assert_eq!(compare(&Net::new(&Device::flex()), "net", &path).unwrap_err().to_string(), message);
}

#[test]
fn names_that_have_the_right_shapes_count_more_than_more_names() {
    let device = Device::flex();
    let bytes = write(&Net::new(&device), "net").unwrap();
    let mut stored = read_safetensors(SafetensorsStore::from_bytes(Some(bytes))).unwrap();
    let right: Vec<_> = stored.iter().filter(|tensor| tensor.name.starts_with("first")).cloned().collect();
    // All names with shapes of another network, and behind a prefix two names with the right ones.
    for tensor in &mut stored {
        tensor.shape = vec![7; tensor.shape.len()].into();
    }
    stored.extend(right.into_iter().map(|mut tensor| {
        tensor.name = format!("model.{}", tensor.name);
        tensor
    }));
    let file = WeightsFile { sha256: String::new(), tensors: stored };
    let found = matched(&Net::new(&device), "net", &file, &[]).unwrap().transferred;
    assert_eq!(found.taken, ["first.weight", "first.bias"]);
}

#[test]
fn a_comparison_finds_what_a_transfer_takes_and_frozen_parameters_that_are_not_taken_are_refused() {
    let place = place();
    let path = place.path().join("weights");
    for (bytes, frozen) in [
        (CHECKPOINT.to_vec(), ["first.weight", "second.bias"]),
        (
            replaced(&write(&Net::new(&Device::flex()), "net").unwrap(), "second.bias", "first.scale"),
            ["norm.bias", "second.bias"],
        ),
    ] {
        fs::write(&path, bytes).unwrap();
        let found = compare(&Net::new(&Device::flex()), "net", &path).unwrap();
        let (_, transferred) = transfer(Net::new(&Device::flex()), "net", &path).unwrap();
        assert_eq!(transferred.sha256, digest(&path).unwrap());
        assert_eq!(Transferred { sha256: transferred.sha256.clone(), ..found }, transferred);
        let frozen = frozen.map(str::to_owned);
        transferred.check_frozen(&frozen[..1]).unwrap();
        let message = transferred.check_frozen(&frozen).unwrap_err().to_string();
        assert!(message.starts_with("freeze: `second.bias` is frozen but not taken from the weights ("), "{message}");
        assert!(message.contains("(2 here, 3 in the file); leave") || message.contains("(not in the file); leave"));
    }
}

#[test]
fn any_damage_to_a_file_is_an_error_or_numbers_and_never_a_panic() {
    let whole = write(&Net::new(&Device::flex()), "net").unwrap();
    for file in [&whole[..], CHECKPOINT] {
        for step in 0..64 {
            let mut damaged = file.to_vec();
            let at = step * file.len() / 64;
            damaged[at] ^= 0x5a;
            let _ = transferred(&damaged);
            let _ = transferred(&file[..at]);
        }
    }
}

#[test]
fn renamed_tensors_are_taken_what_is_left_has_its_shape_and_two_of_one_name_are_refused() {
    let device = Device::flex();
    let bytes = write(&Net::numbered(3, &device), "net").unwrap();
    let mut tensors = read_safetensors(SafetensorsStore::from_bytes(Some(bytes))).unwrap();
    for tensor in &mut tensors {
        tensor.name = format!("model_state_dict.{}", tensor.name.replace("second", "head.0"));
    }
    let file = WeightsFile { sha256: String::new(), tensors };
    let of = |renames: &[&str]| {
        let renames: Vec<Rename> = renames.iter().map(|rename| rename.parse().unwrap()).collect();
        transfer_from(Net::new(&device), "net", &file, &renames)
    };
    let (_, found) = of(&[]).unwrap();
    assert_eq!((&found.fresh[0], &found.shapes["second.weight"]), (&"second.weight".to_owned(), &vec![2, 4]));
    assert_eq!((&found.unused[1], &found.shapes["head.0.weight"]), (&"head.0.weight".to_owned(), &vec![2, 4]));
    let (net, found) = of(&["head.0=second", "tail=first"]).unwrap();
    assert!(found.fresh.is_empty() && found.unused.is_empty() && found.unmatched == ["tail"], "{found:?}");
    assert_eq!(numbers(&net), numbers(&Net::numbered(3, &device)));
    let twice = of(&["head.0.bias=first.bias"]).err().unwrap().to_string();
    assert!(twice.contains("two tensors of the file would have the name `first.bias`"), "{twice}");
}
