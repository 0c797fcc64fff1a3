//! What goes wrong, and what is said about it.

use tidemill::domain::FaultKind;

use super::{Ask, CALLS, Door, HIGH, Input, NATIVE, OPEN, Scenario, ask, four, scenario, tensor};

pub(super) const PAIR: &str = "
engine = 'synthetic'
inputs = [{ name = 'a', datatype = 'FP32', dims = ['batch', 1] }, { name = 'b', datatype = 'FP32', dims = ['batch', 1] }]
outputs = [{ name = 'c', datatype = 'FP32', dims = ['batch', 1] }, { name = 'd', datatype = 'FP32', dims = ['batch', 1] }]
[synthetic]
";

pub(super) const ROWS: &str = "
engine = 'synthetic'
inputs = [{ name = 'x', datatype = 'FP32', dims = ['batch', -1] }]
outputs = [{ name = 'y', datatype = 'FP32', dims = ['batch', -1] }]
[padding]
buckets = [4, 8]
[synthetic]
";

pub(super) const ANY: &str = "
engine = 'synthetic'
inputs = [{ name = 'x', datatype = 'FP32', dims = ['batch', -1] }]
outputs = [{ name = 'y', datatype = 'FP32', dims = ['batch', -1] }]
[synthetic]
";

pub(super) const PLANES: &str = "
engine = 'synthetic'
batch = false
inputs = [{ name = 'x', datatype = 'FP32', dims = [-1, -1] }]
outputs = [{ name = 'y', datatype = 'FP32', dims = [-1, -1] }]
[synthetic]
";

pub(super) fn scenarios() -> Vec<Scenario> {
    use FaultKind::{Denied, Expired, Failed, Invalid, NotFound, TooLarge, Unavailable, Unsupported};
    let good = || ask("doubler", vec![four()]);
    let with = |input: Input| ask("doubler", vec![input]);
    let counted = |step| Ask { step: Some(step), ..ask("counter", vec![tensor("x", &[1, 1], &[1.0])]) };
    vec![
        scenario("unknown model", ask("nobody", vec![four()]), NotFound, "there is no model 'nobody'; the models are"),
        scenario("unknown version", Ask { version: "9", ..good() }, NotFound, "has no version '9'; its versions are: '1'"),
        scenario("a model that could not be loaded", ask("broken", vec![four()]), Unavailable, "could not be loaded"),
        scenario("no model", ask("", vec![four()]), Invalid, "the name of the model is missing").at(&[
            Door::Native,
            Door::GrpcWeb,
            Door::Connect,
            Door::Socket,
            Door::Grpc,
        ]),
        scenario(
            "another datatype",
            with(Input { datatype: "INT32", ..four() }),
            Invalid,
            "input 'x' is INT32, but the model takes FP32",
        ),
        scenario(
            "unknown datatype",
            with(Input { datatype: "FP13", ..four() }),
            Invalid,
            "unknown datatype 'FP13'; known are BOOL, UINT8..UINT64",
        )
        .at(OPEN),
        scenario(
            "unknown number of a datatype",
            with(Input { datatype: "FP13", ..four() }),
            Invalid,
            "99 is not a value of the enum Datatype",
        )
        .at(NATIVE),
        scenario("wrong size", with(tensor("x", &[5], &[0.0; 5])), Invalid, "shape [5] does not fit the model's [-1, 4]"),
        scenario("wrong rank", with(tensor("x", &[1, 1, 4], &[0.0; 4])), Invalid, "shape [1, 1, 4] does not fit"),
        scenario("nothing in a dimension", with(tensor("x", &[0], &[])), Invalid, "shape [0] does not fit the model's [-1, 4]"),
        scenario("no item", with(tensor("x", &[0, 4], &[])), Invalid, "shape [0, 4] holds 0 items").in_own_words(),
        scenario(
            "nothing to pad",
            ask("rows", vec![tensor("x", &[0], &[])]),
            Invalid,
            "input 'x' has length 0; padded inputs need",
        ),
        scenario(
            "a large nothing",
            ask("planes", vec![tensor("x", &[0, 1 << 21], &[])]),
            Invalid,
            "shape [0, 2097152] holds no element, and the product of its other dynamic dimensions is 2097152; for an empty tensor it may be at most 1048576",
        ),
        scenario(
            "a batch for a model without one",
            ask("planes", vec![tensor("x", &[1, 1, 1], &[0.0])]),
            Invalid,
            "shape [1, 1, 1] does not fit the model's [-1, -1] (-1: dynamic; the model has no batch dimension)",
        ),
        scenario("negative dimension", with(tensor("x", &[-4], &[0.0; 4])), Invalid, "dimension 0 of shape [-4] is -4"),
        scenario(
            "too many elements",
            ask("any", vec![tensor("x", &[i64::MAX], &[0.0])]),
            Invalid,
            "more elements than can be addressed",
        ),
        scenario(
            "short data",
            with(Input { data: vec![0; 15], ..four() }),
            Invalid,
            "15 bytes of data, but shape [4] of FP32 takes 16",
        ),
        scenario(
            "long data",
            with(Input { data: vec![0; 17], ..four() }),
            Invalid,
            "17 bytes of data, but shape [4] of FP32 takes 16",
        ),
        scenario("missing input", ask("pair", vec![tensor("a", &[1], &[1.0])]), Invalid, "input 'b' is missing"),
        scenario("no input", ask("doubler", vec![]), Invalid, "input 'x' is missing"),
        scenario(
            "unknown input",
            ask("pair", vec![tensor("z", &[1], &[1.0])]),
            Invalid,
            "the model has no input 'z'; its inputs are 'a', 'b'",
        ),
        scenario(
            "an input twice",
            ask("pair", vec![tensor("a", &[1], &[1.0]), tensor("a", &[1], &[1.0])]),
            Invalid,
            "input 'a' is given twice",
        ),
        scenario(
            "the server's own input",
            ask("counter", vec![tensor("sum", &[1], &[1.0])]),
            Invalid,
            "input 'sum' is the server's own",
        ),
        scenario(
            "a large item",
            ask("any", vec![tensor("x", &[300], &[0.0; 300])]),
            TooLarge,
            "1200 bytes, more than the 1024 that session.max_item_bytes allows",
        ),
        scenario(
            "a long row",
            ask("rows", vec![tensor("x", &[9], &[0.0; 9])]),
            TooLarge,
            "input 'x' is 9 long, more than 8, the last of padding.buckets",
        ),
        scenario(
            "a large message",
            ask("any", vec![tensor("x", &[5_000], &[0.0; 5_000])]),
            TooLarge,
            "larger than the 16384 bytes",
        )
        .in_own_words()
        .at(CALLS),
        scenario("a call that fails", with(tensor("x", &[4], &[-1.0, 0.0, 0.0, 0.0])), Failed, "the model call failed")
            .in_own_words(),
        scenario(
            "an engine that panics",
            ask("bomb", vec![tensor("x", &[4], &[-1.0, 0.0, 0.0, 0.0])]),
            Failed,
            "the model call failed",
        )
        .in_own_words(),
        scenario("a long id", Ask { id: "i".repeat(300), ..good() }, Invalid, "the id has 300 bytes; at most 256 are allowed"),
        scenario("no time", Ask { timeout_us: Some(1), ..good() }, Expired, "the model did not run on it").in_own_words(),
        scenario(
            "a priority that is switched off",
            Ask { parameter: HIGH, ..good() },
            Denied,
            "clients of this server may not ask for priority HIGH (control.priority_high)",
        ),
        scenario(
            "a negative timeout",
            Ask { timeout_us: Some(-1), ..good() },
            Invalid,
            "parameter 'timeout' is -1, but must be microseconds from 0",
        )
        .at(OPEN),
        scenario(
            "a reserved parameter",
            Ask { parameter: Some(("triton_secret", 1)), ..good() },
            Invalid,
            "'triton_secret' is not a parameter",
        )
        .at(OPEN),
        scenario(
            "a flag that is none",
            Ask { parameter: Some(("sequence_start", 1)), ..good() },
            Invalid,
            "must be true or false",
        )
        .at(OPEN),
        scenario(
            "unknown output",
            Ask { outputs: vec!["z"], ..good() },
            Invalid,
            "the model has no output 'z'; its outputs are 'y'",
        )
        .at(OPEN),
        scenario("an output twice", Ask { outputs: vec!["y", "y"], ..good() }, Invalid, "output 'y' is asked for twice").at(OPEN),
        scenario(
            "too many items",
            with(tensor("x", &[2_000, 4], &[])),
            TooLarge,
            "2000 items, more than the 1024 that session.window_items_max allows",
        )
        .at(OPEN),
        scenario(
            "inputs that disagree",
            ask("pair", vec![tensor("a", &[2, 1], &[1.0; 2]), tensor("b", &[3, 1], &[1.0; 3])]),
            Invalid,
            "input 'b' holds 3 items, but 'a' holds 2 items",
        )
        .at(OPEN),
        scenario(
            "short data of a batch",
            ask("doubler", vec![tensor("x", &[1, 4], &[0.0; 3])]),
            Invalid,
            "12 bytes of data, but shape [1, 4] of FP32 takes 16",
        )
        .at(OPEN),
        scenario(
            "one bad item of three",
            with(tensor("x", &[3, 4], &[0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0])),
            Failed,
            "item 1: the model call failed",
        )
        .in_own_words()
        .at(OPEN),
        scenario(
            "a step before the first",
            counted((77, false, false)),
            Invalid,
            "sequence 77 of model 'counter' has not begun over unary calls",
        )
        .at(OPEN),
        scenario(
            "two steps at once",
            Ask { step: Some((78, true, false)), ..ask("counter", vec![tensor("x", &[2, 1], &[1.0; 2])]) },
            Invalid,
            "one step of it, but this one holds 2 items",
        )
        .at(OPEN),
        scenario(
            "unknown region",
            Ask { region: Some("nowhere"), ..good() },
            NotFound,
            "no shared memory region 'nowhere' is registered",
        )
        .at(OPEN),
        scenario(
            "several answers where there is room for one",
            ask("answers", vec![four()]),
            Unsupported,
            "model 'answers' gives several answers to an item, and this call has room for one",
        )
        .at(CALLS),
        scenario(
            "no classes",
            Ask { classification: true, outputs: vec!["y"], ..good() },
            Invalid,
            "output 'y': classification is 0, but must be a number of classes from 1",
        )
        .at(OPEN),
    ]
}
