use crate::{
    ExchangeError,
    onnx::proto::{Attribute, AttributeKind, ElementType, Graph, Model, Node, Tensor, ValueInfo},
};

use super::{DRAWING, INTERPRETER, escaped, filled, graph};

fn node(op_type: &str, inputs: &[&str], outputs: &[&str], attribute: Vec<Attribute>) -> Node {
    let [input, output] = [inputs, outputs].map(|names| names.iter().map(ToString::to_string).collect());
    Node { op_type: op_type.to_owned(), input, output, attribute, ..Node::default() }
}

fn tensor(name: &str, dims: &[i64], data_type: ElementType, raw_data: Vec<u8>) -> Tensor {
    Tensor { name: name.to_owned(), dims: dims.to_vec(), data_type: data_type as i32, raw_data, ..Tensor::default() }
}

fn ints(name: &str, ints: &[i64]) -> Attribute {
    Attribute { name: name.to_owned(), kind: AttributeKind::Ints as i32, ints: ints.to_vec(), ..Attribute::default() }
}

fn model(node: Vec<Node>, initializer: Vec<Tensor>) -> Model {
    let named = |name: &str| vec![ValueInfo { name: name.to_owned(), ..ValueInfo::default() }];
    let graph = Graph { node, initializer, input: named("pixels"), output: named("logits"), ..Graph::default() };
    Model { graph: Some(graph), ..Model::default() }
}

fn refusal(node: Node) -> String {
    graph::network(&model(vec![node], Vec::new())).unwrap_err().to_string()
}

#[test]
fn a_network_becomes_a_list_of_operations_and_the_bytes_of_its_weights() {
    let weights: Vec<u8> = [1.5_f32, -2.0].iter().flat_map(|number| number.to_le_bytes()).collect();
    let halves: Vec<u8> = [0.5_f64].iter().flat_map(|number| number.to_le_bytes()).collect();
    let ends: Vec<u8> = [-1_i64, i64::MAX].iter().flat_map(|number| number.to_le_bytes()).collect();
    let initializers = vec![
        tensor("weight", &[2], ElementType::Float, weights.clone()),
        tensor("half", &[], ElementType::Double, halves),
        tensor("ends", &[2], ElementType::Int64, ends),
    ];
    let nodes = vec![
        node("Mul", &["pixels", "weight"], &["x"], Vec::new()),
        node("Transpose", &["x"], &["logits"], vec![ints("perm", &[1, 0])]),
    ];
    let model = model(nodes, initializers);
    let (network, bytes) = graph::network(&model).unwrap();
    assert_eq!(bytes, [weights, 0.5_f32.to_le_bytes().to_vec()].concat());
    let expected = serde_json::json!({
        "input": "pixels",
        "outputs": { "logits": "logits" },
        "constants": {
            "weight": { "type": "f32", "shape": [2], "at": 0 },
            "half": { "type": "f32", "shape": [], "at": 8 },
            // No axis is as long as 32 bits can say.
            "ends": { "type": "i32", "shape": [2], "numbers": [-1, i32::MAX] },
        },
        "operations": [
            { "operation": "Mul", "inputs": ["pixels", "weight"], "outputs": ["x"] },
            { "operation": "Transpose", "inputs": ["x"], "outputs": ["logits"], "attributes": { "perm": [1, 0] } },
        ],
    });
    assert_eq!(serde_json::to_value(network).unwrap(), expected);
}

#[test]
fn an_operation_that_the_page_does_not_have_is_named() {
    let of = |op_type: &str| refusal(node(op_type, &["pixels"], &["logits"], Vec::new()));
    // The last is a function of the interpreter that is no operation.
    for unknown in ["Resize", "Loop", "relu", "Rel", "networkOf"] {
        assert!(of(unknown).contains(&format!("`{unknown}`")), "{}", of(unknown));
    }
    let other_set = Node { domain: "com.example".to_owned(), ..node("Relu", &["pixels"], &["logits"], Vec::new()) };
    assert!(refusal(other_set).contains("`Relu`"));
    let one_dimension = node("MaxPool", &["pixels"], &["logits"], vec![ints("kernel_shape", &[3])]);
    assert!(refusal(one_dimension).contains("`MaxPool in 1 dimensions`"));
    let weight = tensor("weight", &[1, 1, 3], ElementType::Float, vec![0; 12]);
    let sequence = model(vec![node("Conv", &["pixels", "weight"], &["logits"], Vec::new())], vec![weight]);
    assert!(graph::network(&sequence).unwrap_err().to_string().contains("`Conv in 1 dimensions`"));
    let kind = AttributeKind::String as i32;
    let same = Attribute { name: "auto_pad".to_owned(), kind, s: Some(b"SAME_UPPER".to_vec()), ..Attribute::default() };
    assert!(refusal(node("Conv", &["pixels"], &["logits"], vec![same])).contains("auto_pad"));
}

#[test]
fn what_is_no_network_is_an_error() {
    let failure = |model: &Model| graph::network(model).unwrap_err();
    assert!(matches!(failure(&Model::default()), ExchangeError::PageNetwork { .. }));
    let short = tensor("weight", &[3], ElementType::Float, vec![0; 8]);
    let said = failure(&model(Vec::new(), vec![short])).to_string();
    assert!(said.contains("`weight` of shape [3] has 2 numbers"), "{said}");
    let endless = tensor("weight", &[i64::MAX, i64::MAX, -1], ElementType::Int64, vec![0; 8]);
    assert!(matches!(failure(&model(Vec::new(), vec![endless])), ExchangeError::PageNetwork { .. }));
    let said = refusal(node("Add", &["pixels", "nowhere"], &["logits"], Vec::new()));
    assert!(said.contains("`nowhere`"), "{said}");
}

#[test]
fn what_is_filled_in_is_not_looked_at_again() {
    let page = filled("<{{a}}>{{b}}{{none}}.", &[("a", "{{b}}"), ("b", "}}{{a}}")]);
    assert_eq!(page, "<{{b}}>}}{{a}}.");
    assert_eq!(escaped("</title>&"), "&lt;/title&gt;&amp;");
}

#[test]
fn no_script_of_the_page_can_end_its_own_element() {
    let scripts = ["tensors.js", "run.js", "prepare.js", "page.js"];
    let sources = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src/html");
    for script in scripts {
        let text = std::fs::read_to_string(sources.join(script)).unwrap();
        assert!(!text.contains("</script") && !text.contains("<!--"), "{script}");
    }
    assert!(!DRAWING.contains("</script") && !DRAWING.contains("import ") && DRAWING.matches("export ").count() == 1);
    assert!(INTERPRETER.contains("\n  Conv("), "the table of operations is where it is looked for");
}
