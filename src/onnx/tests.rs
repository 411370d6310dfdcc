use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::wire::Writer;
use super::*;

fn fixture(name: &str) -> Model {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("onnx").join(name);
    Model::open(folder.join("model.onnx")).unwrap()
}

/// The hidden states of a graph in its current form.
fn found(model: &Model) -> Result<HiddenStates, OnnxError> {
    HiddenStates::find(model, &Topology::indexed(&model.graph, topology::Index::new(&model.graph).into()))
}

/// Everything the room does with a model; the results do not matter here.
fn use_all(bytes: Vec<u8>) {
    let Ok(model) = Model::from_bytes("model.onnx", bytes).map(Transformer::new) else { return };
    let _ = (active_dropout(&model), disable_training_mode(&model).map(|edit| edit.apply_to_bytes(&model)));
    let _ = (model.linears(), model.first_copies());
    let Ok(states) = model.states() else { return };
    let _ = (model.blocks(), model.head());
    let _ = expose(&model, states).map(|edit| edit.apply_to_bytes(&model));
    let wanted: Vec<&str> = states.values.iter().map(String::as_str).collect();
    let _ = subgraph(&model, &wanted, &Additions::default());
    for tensor in &model.graph.initializers {
        let _ = (model.to_f32(tensor), model.to_i64(tensor));
    }
}

/// A graph of two blocks, each `x · W`, small enough to cut at every byte.
fn small() -> Vec<u8> {
    let mut model = Writer::new();
    model.int(1, 8).message(8, |opset| {
        opset.string(1, "").int(2, 17);
    });
    model.message(7, |graph| {
        for (input, output) in [("hidden_states.0", "hidden_states.1"), ("hidden_states.1", "hidden_states.2")] {
            graph.message(1, |node| {
                node.string(1, input).string(1, "w").string(2, output).string(3, "/m/MatMul").string(4, "MatMul");
            });
        }
        graph.message(1, |node| {
            node.string(1, "hidden_states.2").string(1, "").string(1, "on").string(2, "logits").string(4, "Dropout");
        });
        graph.message(5, |tensor| {
            tensor.int(1, 2).int(1, 2).int(2, 1).string(8, "w").bytes(9, &[0; 16]);
        });
        graph.message(5, |tensor| {
            tensor.int(2, 9).string(8, "on").int(5, 1);
        });
        for name in ["hidden_states.0", "hidden_states.1", "hidden_states.2", "logits"] {
            graph.message(12, |output| {
                output.string(1, name);
            });
        }
    });
    model.into_bytes()
}

#[test]
fn every_prefix_and_every_changed_byte_gives_an_answer() {
    let whole = small();
    let model = Transformer::new(Model::from_bytes("model.onnx", whole.clone()).unwrap());
    assert_eq!(model.blocks().unwrap().len(), 2);
    assert_eq!(active_dropout(&model).len(), 1);
    for end in 0..whole.len() {
        use_all(whole[..end].to_vec());
        for value in [0, 1, 0x7f, 0x80, 0xff] {
            let mut changed = whole.clone();
            changed[end] = value;
            use_all(changed);
        }
    }
}

proptest! {
    #[test]
    fn any_change_of_a_real_export_gives_an_answer(
        cut in 0.0..1.0f64, changes in prop::collection::vec((0.0..1.0f64, any::<u8>()), 0..8), truncate: bool,
    ) {
        let model = fixture("tiny_encoder");
        let mut bytes = model.file_bytes().to_vec();
        for (place, value) in changes {
            let place = (place * bytes.len() as f64) as usize;
            bytes[place] = value;
        }
        if truncate {
            bytes.truncate((cut * bytes.len() as f64) as usize);
        }
        use_all(bytes);
    }

    #[test]
    fn any_bytes_give_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        use_all(bytes);
    }
}

#[test]
fn absurd_sizes_are_refused() {
    let tensor = |dims: &[i64], bytes: &[u8]| {
        let mut model = Writer::new();
        model.message(7, |graph| {
            graph.message(5, |tensor| {
                dims.iter().for_each(|dim| {
                    tensor.int(1, *dim);
                });
                tensor.int(2, 1).string(8, "w").bytes(9, bytes);
            });
        });
        Model::from_bytes("model.onnx", model.into_bytes()).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(tensor(&[2, 2], &[0; 16]), Ok(()));
    for dims in [&[i64::MAX, i64::MAX][..], &[1 << 40], &[-1, 4], &[2, 3], &[1 << 32, 1 << 32]] {
        let error = tensor(dims, &[0; 16]).unwrap_err();
        assert!(!error.contains('\n'), "{error}");
    }
}

/// Without names, the products around the softmax determine the roles.
#[test]
fn structure_tells_the_roles_where_names_fail() {
    for name in ["tiny_encoder", "tiny_encoder_dynamo", "tiny_encoder_base"] {
        let model = Transformer::new(fixture(name));
        let named: Vec<Vec<Role>> = roles(&model);
        let mut model = model.into_model();
        for node in &mut model.graph.nodes {
            node.name.clear();
            node.metadata.clear();
        }
        let model = Transformer::new(model);
        let blocks = model.blocks().unwrap();
        assert!(blocks.iter().all(|block| block.linears.iter().all(|linear| linear.module.is_none())));
        assert_eq!(roles(&model), named, "{name}");
        assert!(named.iter().flatten().all(|role| *role != Role::Other));
    }
}

fn roles(model: &Transformer) -> Vec<Vec<Role>> {
    let blocks = model.blocks().unwrap();
    blocks.iter().map(|block| block.linears.iter().map(|linear| linear.role).collect()).collect()
}

/// An output may be a copy of the tensor that the next block reads.
#[test]
fn copies_of_hidden_states_are_seen_through() {
    let before = Transformer::new(fixture("tiny_encoder"));
    let mut model = fixture("tiny_encoder");
    for node in &mut model.graph.nodes {
        for value in node.inputs.iter_mut().chain(&mut node.outputs) {
            if value == "hidden_states.1" {
                *value = "inner".into();
            }
        }
    }
    let copy = Node {
        op_type: "Identity".into(),
        inputs: vec!["inner".into()],
        outputs: vec!["hidden_states.1".into()],
        ..Default::default()
    };
    model.graph.nodes.push(copy);
    let after = Transformer::new(model);
    let weights = |model: &Transformer| -> Vec<Vec<String>> {
        let blocks = model.blocks().unwrap();
        blocks.iter().map(|block| block.linears.iter().map(|linear| linear.weight.clone()).collect()).collect()
    };
    assert_eq!(weights(&after), weights(&before));
}

fn with_nodes(nodes: &[(&str, &[&str], &str)]) -> Vec<u8> {
    let mut model = Writer::new();
    model.int(1, 8).message(7, |graph| {
        for (operator, inputs, output) in nodes {
            graph.message(1, |node| {
                inputs.iter().for_each(|input| _ = node.string(1, input));
                node.string(2, output).string(3, &format!("/{output}")).string(4, operator);
            });
        }
    });
    model.into_bytes()
}

#[test]
fn nodes_that_go_round_in_a_circle_are_refused() {
    let nodes: [(&str, &[&str], &str); 3] =
        [("Cast", &["c"], "a"), ("Softmax", &["a"], "logits"), ("Cast", &["a"], "c")];
    let error = Model::from_bytes("model.onnx", with_nodes(&nodes)).unwrap_err().to_string();
    assert!(error.contains("model.onnx is not a readable ONNX model: its nodes go round in a circle: `/"), "{error}");
    assert!(error.ends_with("export it again"), "{error}");
    let own: [(&str, &[&str], &str); 1] = [("Cast", &["a"], "a")];
    assert!(Model::from_bytes("model.onnx", with_nodes(&own)).is_err());
}

fn computed(op_type: &str, inputs: &[&str], output: &str) -> Node {
    let inputs = inputs.iter().map(|input| (*input).to_owned()).collect();
    Node { op_type: op_type.into(), inputs, outputs: vec![output.into()], ..Node::default() }
}

#[test]
fn ids_with_exchanged_axes_name_the_models_that_are_not_covered() {
    let mut model = fixture("tiny_encoder_plain");
    let graph = &mut model.graph;
    for node in &mut graph.nodes {
        node.inputs.iter_mut().filter(|input| *input == "input_ids").for_each(|input| *input = "turned".into());
    }
    graph.nodes.insert(0, computed("Transpose", &["input_ids"], "turned"));
    let error = found(&model).unwrap_err().to_string();
    assert!(
        error.contains("export the model batch first (models that compute sequence first, such as XLNet, are not"),
        "{error}"
    );
}

/// Segments as one-hot vectors times their table, as in Google's BERT, and positions counted by a product over the mask.
#[test]
fn embeddings_by_products_are_no_lost_block() {
    let mut model = fixture("tiny_encoder");
    let table = |name: &str, model: &Model| {
        let reads = |node: &&Node| node.is("Gather") && node.inputs[0].contains(name);
        model.graph.nodes.iter().position(|node| reads(&node)).expect("a lookup")
    };
    let place = table("token_type_embeddings", &model);
    let (weight, output) = (model.graph.nodes[place].inputs[0].clone(), model.graph.nodes[place].outputs[0].clone());
    let counted = [
        computed("OneHot", &["token_type_ids", "depth", "values"], "one_hot"),
        computed("MatMul", &["one_hot", &weight], "segments"),
        computed("Cast", &["attention_mask"], "mask"),
        computed("MatMul", &["mask", &weight], "places"),
        computed("Add", &["segments", "places"], &output),
    ];
    model.graph.nodes.splice(place..=place, counted);
    let states = found(&model).unwrap();
    let account_of = |model: Model, states: &HiddenStates| {
        let model = Transformer::with_states(model, states.clone());
        (account(&model).unwrap(), model.into_model())
    };
    let (accounts, model) = account_of(model, &states);
    assert_eq!((accounts.outside, accounts.in_several), (vec![], vec![]));
    // The products of a block that is left out still count, as do these.
    let missed = HiddenStates { values: states.values[1..].to_vec(), origin: Origin::Named };
    let (accounts, mut model) = account_of(model, &missed);
    assert_eq!(accounts.outside.len(), 6);
    // After hidden state 0, what is computed from the mask alone bypasses the blocks, and does not count either.
    let last = model.graph.nodes.iter().position(|node| node.outputs == ["hidden_states.2"]).expect("a node");
    let stream = std::mem::replace(&mut model.graph.nodes[last].inputs[0], "shifted".into());
    model.graph.nodes.insert(last, computed("Add", &[&stream, "places"], "shifted"));
    assert_eq!(account_of(model, &states).0.outside, Vec::<usize>::new());
}

#[test]
fn missing_hidden_states_are_named() {
    let mut model = fixture("tiny_encoder");
    model.graph.outputs.retain(|output| output.name != "hidden_states.1");
    let error = found(&model).unwrap_err().to_string();
    assert!(error.contains("number 1 is missing"), "{error}");
    model.graph.outputs.retain(|output| output.name == "logits");
    let states = found(&model).unwrap();
    assert_eq!(
        states.values,
        ["hidden_states.0", "hidden_states.1", "hidden_states.2"],
        "those of the residual stream"
    );
    let Origin::Graph(stream) = states.origin else { panic!("no output shows them") };
    assert_eq!((stream.pre_norm, stream.output.as_str()), (false, "logits"));
    // Without the embedding lookup there is no stream.
    model.graph.nodes.retain(|node| !node.is("Gather"));
    let error = found(&model).unwrap_err().to_string();
    assert!(error.contains("its outputs are logits") && error.contains("output_hidden_states=True"), "{error}");
    assert!(error.contains("no node looks up embeddings"), "{error}");
    let numbered = |i: usize| ValueInfo { name: format!("hidden_states_{i}"), ..Default::default() };
    model.graph.outputs = (0..11).rev().map(numbered).collect();
    let found = found(&model).unwrap().values;
    assert_eq!([&found[0], &found[9], &found[10]], ["hidden_states_0", "hidden_states_9", "hidden_states_10"]);
}

#[test]
fn the_vocabulary_is_found_whatever_looks_it_up() {
    let tokens = |model: &Model| {
        let reads = |node: &Node| node.is("Gather") && node.inputs[1] == "input_ids";
        model.graph.nodes.iter().position(reads).expect("a lookup")
    };
    let model = fixture("tiny_encoder");
    let place = tokens(&model);
    let table = model.graph.nodes[place].inputs[0].clone();
    let rows = Transformer::new(model).vocabulary();
    assert_eq!(rows, Some(100));
    let changed = |change: &dyn Fn(&mut Vec<Node>)| {
        let mut model = fixture("tiny_encoder");
        change(&mut model.graph.nodes);
        Transformer::new(model).vocabulary()
    };
    let replaced = |domain: &str, op_type: &str, inputs: &[&str]| {
        changed(&|nodes| {
            let output = nodes[place].outputs[0].clone();
            nodes[place] = Node { domain: domain.into(), ..computed(op_type, inputs, &output) };
        })
    };
    assert_eq!(replaced("com.microsoft", "GatherBlockQuantized", &[&table, "input_ids", "scales"]), rows);
    assert_eq!(replaced("com.microsoft", "EmbedLayerNormalization", &["input_ids", "", &table]), rows);
    for (op_type, domain) in [("Cast", ""), ("DequantizeLinear", ""), ("DequantizeLinear", "com.microsoft")] {
        let behind = changed(&|nodes| {
            nodes[place].inputs[0] = "behind".into();
            nodes.insert(place, Node { domain: domain.into(), ..computed(op_type, &[&table], "behind") });
        });
        assert_eq!(behind, rows, "{op_type}");
    }
    // Ids that were computed are not those of an input.
    assert_eq!(replaced("", "Gather", &[&table, "counted"]), None);
}

#[test]
fn heads_that_join_tokens_are_told_from_those_that_read_one() {
    let axis = |value: i64| ("axes".to_owned(), Attribute::Ints(vec![value]));
    let keep = |value: i64| ("keepdims".to_owned(), Attribute::Int(value));
    let with = |op_type: &str, attributes: &[(String, Attribute)], input: &str, output: &str| Node {
        attributes: attributes.to_vec(),
        ..computed(op_type, &[input], output)
    };
    // The path from the last hidden state to what the pooler reads.
    let pools = |way: Vec<Node>| {
        let mut model = fixture("tiny_encoder");
        let reads = |node: &Node| node.inputs.first().is_some_and(|input| input == "hidden_states.2");
        let place = model.graph.nodes.iter().position(reads).expect("the head");
        let chosen = model.graph.nodes[place].clone();
        let reader = model.graph.nodes.iter().position(|node| node.inputs.contains(&chosen.outputs[0])).unwrap();
        model.graph.nodes[reader].inputs[0] = way.last().unwrap().outputs[0].clone();
        model.graph.nodes.splice(place..=place, way);
        Transformer::new(model).head().unwrap().expect("a head").pools
    };
    let state = "hidden_states.2";
    let first = {
        let nodes = fixture("tiny_encoder").graph.nodes;
        let reads = |node: &Node| node.inputs.first().is_some_and(|input| input == state);
        Node { outputs: vec!["first".into()], ..nodes.into_iter().find(reads).unwrap() }
    };
    let mean = |place: i64, input: &str| with("ReduceMean", &[axis(place), keep(0)], input, "mean");
    assert_eq!(pools(vec![first.clone(), with("Tanh", &[], "first", "last")]), Some(false));
    assert_eq!(pools(vec![mean(1, state)]), Some(true));
    assert_eq!(pools(vec![mean(-2, state)]), Some(true));
    // A norm over the width, of all tokens or of the chosen one, where axis 1 is the width.
    let norm = with("ReduceMean", &[axis(-1), keep(1)], state, "norm");
    assert_eq!(
        pools(vec![norm, Node { inputs: vec!["norm".into(), first.inputs[1].clone()], ..first.clone() }]),
        Some(false)
    );
    assert_eq!(pools(vec![first.clone(), mean(1, "first")]), Some(false));
    // The tokens are on another axis.
    let turned = Node {
        attributes: vec![("perm".into(), Attribute::Ints(vec![0, 2, 1]))],
        ..computed("Transpose", &[state], "turned")
    };
    assert_eq!(pools(vec![turned.clone(), mean(2, "turned")]), Some(true));
    assert_eq!(pools(vec![turned.clone(), mean(-1, "turned")]), Some(true));
    assert_eq!(pools(vec![turned, mean(1, "turned")]), Some(false));
    // Axes that are not known, and those of a value that may have any shape.
    assert_eq!(pools(vec![computed("ReduceMean", &[state, "computed"], "mean")]), None);
    assert_eq!(pools(vec![computed("Reshape", &[state, "shape"], "laid"), mean(1, "laid")]), None);
    // Without axes all of them, or none where the node says so.
    assert_eq!(pools(vec![with("ReduceMax", &[], state, "most")]), Some(true));
    let none = ("noop_with_empty_axes".to_owned(), Attribute::Int(1));
    assert_eq!(pools(vec![with("ReduceMax", &[none], state, "most")]), Some(false));
}

#[test]
fn heads_with_a_line_for_every_token_are_told_from_those_of_a_row() {
    let every_token = |change: &dyn Fn(&mut Graph)| {
        let mut model = fixture("tiny_encoder");
        change(&mut model.graph);
        let model = Transformer::new(model);
        let head = model.head().unwrap().expect("a head");
        assert_eq!(head.labels_tokens(), head.every_token == Some(true));
        head.every_token
    };
    let undeclared = |graph: &mut Graph| {
        let logits = graph.outputs.iter_mut().find(|output| output.name == "logits").expect("logits");
        logits.shape = None;
    };
    assert_eq!(every_token(&|_| {}), Some(false), "by the shape");
    assert_eq!(every_token(&undeclared), Some(false), "by the graph");
    // Without the node that selects a token, every token has its row.
    let all = |graph: &mut Graph| {
        undeclared(graph);
        let reads = |node: &Node| node.is("Gather") && node.inputs[0] == "hidden_states.2";
        let place = graph.nodes.iter().position(reads).expect("the pooler");
        let output = graph.nodes[place].outputs[0].clone();
        graph.nodes[place] = computed("Identity", &["hidden_states.2"], &output);
    };
    assert_eq!(every_token(&all), Some(true));
}
