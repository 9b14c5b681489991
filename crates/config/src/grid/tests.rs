use proptest::prelude::*;

use super::*;
use crate::keys::tests::registry;

fn only(text: &str) -> Grid {
    Grid::from_file(text).unwrap().remove(0)
}

fn configs(grid: &Grid) -> Vec<(Vec<String>, Config)> {
    grid.configs(&registry()).unwrap()
}

fn count(text: &str) -> usize {
    configs(&only(text)).len()
}

#[test]
fn the_first_key_varies_slowest_and_labels_hold_what_varies() {
    let grid = Grid::default().with("model", vec!["mlp".into()]).with("learning_rate", vec![1.into(), 0.1.into()]);
    let configs = configs(&grid.with_seeds(2));
    let values: Vec<_> =
        configs.iter().map(|(_, config)| (config.optimizer.learning_rate(), config.training.seed)).collect();
    assert_eq!(values, [(1.0, 1), (1.0, 2), (0.1, 1), (0.1, 2)]);
    assert_eq!(configs[2].0, ["learning_rate 0.1", "seed 1"]);
    let several = Grid::default().with_texts("network", ["mlp,cnn"]).with_texts("augment", ["none", "shift,flip"]);
    assert_eq!(self::configs(&several)[3].0, ["network cnn", "augment shift-flip"]);
    assert_eq!(self::configs(&several)[0].0, ["network mlp", "augment none"]);
}

#[test]
fn a_list_is_a_single_value_where_the_default_is_a_list() {
    assert_eq!(count(r#"{"model": "mlp", "hidden": [64, 32]}"#), 1);
    assert_eq!(count(r#"{"model": "mlp", "hidden": [[64, 32], [128]]}"#), 2);
    assert_eq!(count(r#"{"model": "cnn", "hidden": [64, 32]}"#), 2);
    assert_eq!(count(r#"{"network": ["mlp", "cnn"], "augment": ["flip"]}"#), 2);
}

#[test]
fn every_value_of_the_data_can_be_an_axis() {
    for (key, texts, labels) in [
        ("augment", &["none", "flip,crop:padding=2"][..], ["augment none", "augment flip-crop:padding=2"]),
        ("data.channels", &["grey,rgb"], ["channels grey", "channels rgb"]),
        ("image_size", &["32,64x48"], ["image_size 32", "image_size 64x48"]),
        ("class_weights", &["balanced", "1,2"], ["class_weights balanced", "class_weights 1-2"]),
        ("pixel_mean", &["0.5", "0.5,0.25"], ["pixel_mean 0.5", "pixel_mean 0.5-0.25"]),
    ] {
        let planned = configs(&Grid::default().with_texts("model", ["mlp"]).with_texts(key, texts.to_vec()));
        assert_eq!(planned.iter().map(|(labels, _)| labels[0].as_str()).collect::<Vec<_>>(), labels);
    }
    assert_eq!(count(r#"{"model": "mlp", "class_weights": ["balanced", [1, 2], null]}"#), 3);
    assert_eq!(count(r#"{"model": "mlp", "class_weights": [1, 2]}"#), 1);
    assert_eq!(count(r#"{"model": "mlp", "augment": ["flip", {"name": "crop", "padding": 2}]}"#), 1);
    assert_eq!(count(r#"{"model": "mlp", "augment": [["flip"], [{"name": "crop", "padding": 2}], []]}"#), 3);
}

#[test]
fn a_number_of_folds_stands_for_each_of_them() {
    let planned = configs(&only(r#"{"model": "mlp", "folds": 3, "seeds": 2}"#));
    assert_eq!(planned.len(), 6);
    assert_eq!(planned[1].0, ["seed 1", "fold 2"]);
    assert_eq!(planned[1].1.flat()["protocol.folds"], 3);
    let several = configs(&Grid::default().with_texts("model", ["mlp"]).with_texts("folds", ["2,3"]));
    assert_eq!(several.last().unwrap().0, ["folds 3", "fold 3"]);
    assert_eq!((several.len(), count(r#"{"model": "mlp", "folds": 3, "fold": [1, 3]}"#)), (5, 2));
    let message = |folds: &str| {
        let grid = only(&format!(r#"{{"model": "mlp", "folds": {folds}}}"#));
        grid.configs(&registry()).unwrap_err().to_string()
    };
    assert_eq!(message("\"many\""), "protocol.folds: expected a whole number, found \"many\"");
    assert_eq!(message("0"), "protocol.folds: expected at least 2, found 0");
    assert!(message("1000000000000").contains("expected at most 10000 combinations"));
}

#[test]
fn sections_paths_and_names_of_keys_are_understood() {
    assert_eq!(count("network = 'mlp'\noptimizer = {name = ['sgd', 'adam'], learning_rate = [1, 0.1]}\nseeds = 2"), 8);
    assert_eq!(count(r#"{"model": "mlp", "optimizer.learning_rate": [1, 0.1], "dataset": ["idx"]}"#), 2);
    let grids = Grid::from_file("[[grids]]\nnetwork = 'mlp'\n[[grids]]\nnetwork = 'cnn'\nseeds = 3").unwrap();
    assert_eq!(grids.iter().map(|grid| configs(grid).len()).collect::<Vec<_>>(), [1, 3]);
    assert_eq!(Grid::from_file(r#"[{"model": "mlp"}, {"model": "cnn"}]"#).unwrap().len(), 2);
}

#[test]
fn commas_separate_values_of_flags_and_repeated_flags_add_to_them() {
    let of = |model: &str, key: &str, texts: &[&str]| {
        configs(&Grid::default().with_texts("model", [model]).with_texts(key, texts.to_vec())).len()
    };
    assert_eq!(of("mlp", "learning_rate", &["1,0.1,.01"]), 3);
    assert_eq!(of("mlp,cnn", "learning_rate", &["1", "0.1"]), 4);
    assert_eq!(of("mlp", "hidden", &["64,32"]), 1);
    assert_eq!(of("mlp", "hidden", &["64,32", "128"]), 2);
    assert_eq!(of("cnn", "hidden", &["64,32"]), 2);
    assert_eq!(of("cnn", "augment", &["shift,flip", "erase"]), 2);
    // The key of the second text may be spelled in full.
    let added = Grid::default().with_text("model", "mlp").with_text("epochs", "1,2").with_text("training.epochs", "3");
    assert_eq!(configs(&added).len(), 3);
}

#[test]
fn flags_take_the_place_of_a_files_values() {
    let file = only(r#"{"model": "mlp", "optimizer": {"learning_rate": [1, 0.1]}, "seeds": 3}"#);
    let flags = Grid::default().with("learning_rate", vec![0.5.into()]);
    let configs = configs(&flags.or(file));
    assert_eq!(configs.len(), 3);
    for (_, config) in configs {
        assert_eq!(config.optimizer, crate::Sgd { learning_rate: 0.5, ..crate::Sgd::default() }.into());
    }
}

#[test]
fn mistakes_are_named() {
    let message = |text: &str| {
        let read = Grid::from_file(text).and_then(|grids| grids[0].configs(&registry()));
        read.unwrap_err().to_string()
    };
    assert!(message(r#"{"learning_rat": [1]}"#).contains("did you mean `optimizer.learning_rate`"));
    let wrong = message(r#"{"model": "mlp", "epochs": ["ten"]}"#);
    assert_eq!(wrong, "training.epochs: expected a whole number, found \"ten\"");
    assert!(message(r#"{"epochs": []}"#).contains("expected at least one value"));
    assert_eq!(message(r#"{"seeds": 0}"#), "seeds: expected at least 1, found 0");
    assert!(message(r#"{"seed": [7, 8], "seeds": 3}"#).contains("`seed` or `seeds` is given twice"));
    assert!(message(r#"{"epochs": 1, "training": {"epochs": 2}}"#).contains("`training.epochs` is given twice"));
    assert!(message("[1]").contains("expected an object of keys and values, found 1"));
    let sgd = message(r#"{"model": "mlp", "optimizer": ["momentum", "sgd"], "nesterov": true}"#);
    assert_eq!(sgd, "`optimizer.nesterov` requires optimizer `momentum` (got `sgd`)");
}

#[test]
fn more_combinations_than_anyone_waits_for_are_refused() {
    let grid = only(r#"{"model": "mlp", "seeds": 1000000000000}"#);
    let message = grid.configs(&registry()).unwrap_err().to_string();
    assert!(message.contains("expected at most 10000 combinations"), "{message}");
}

proptest! {
    #[test]
    fn the_size_of_a_grid_is_the_product_of_its_axes(rates in 1_usize..5, seeds in 1_u64..5, sizes in 1_usize..5) {
        let grid = only(r#"{"model": "mlp"}"#)
            .with("learning_rate", (1..=rates).map(|n| (0.1 * n as f64).into()).collect())
            .with("batch_size", (1..=sizes).map(Value::from).collect())
            .with_seeds(seeds);
        let configs = configs(&grid);
        prop_assert_eq!(configs.len(), rates * seeds as usize * sizes);
        // And no combination comes twice.
        let mut names: Vec<_> = configs.iter().map(|(_, config)| format!("{config:?}")).collect();
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), configs.len());
    }
}
