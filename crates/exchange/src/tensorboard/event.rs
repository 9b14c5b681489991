//! The messages of event files, as far as they are written here.
//!
//! Names and numbers of the fields are those of TensorBoard's
//! [protocol](https://github.com/tensorflow/tensorboard/tree/master/tensorboard/compat/proto) (`event.proto`,
//! `summary.proto`, `tensor.proto`) and of its plugin hparams.

use std::collections::BTreeMap;

use prost::{Enumeration, Message, Oneof};

/// An entry of an event file.
#[derive(Clone, PartialEq, Message)]
pub struct Event {
    /// Seconds since 1970, UTC.
    #[prost(double, tag = "1")]
    pub wall_time: f64,
    /// Training steps so far.
    #[prost(int64, tag = "2")]
    pub step: i64,
    /// What it is about.
    #[prost(oneof = "What", tags = "3, 5, 7")]
    pub what: Option<What>,
}

/// What an event is about.
#[derive(Clone, PartialEq, Oneof)]
pub enum What {
    /// The first event: the version of the format, `brain.Event:2`.
    #[prost(string, tag = "3")]
    FileVersion(String),
    /// Values.
    #[prost(message, tag = "5")]
    Summary(Summary),
    /// The beginning of the steps from this event's on: TensorBoard drops those that it knows already.
    #[prost(message, tag = "7")]
    SessionLog(SessionLog),
}

/// Where a session stands.
#[derive(Clone, PartialEq, Message)]
pub struct SessionLog {
    /// 1 where it starts.
    #[prost(int32, tag = "1")]
    pub status: i32,
}

/// Values by their tags.
#[derive(Clone, PartialEq, Message)]
pub struct Summary {
    /// The values.
    #[prost(message, repeated, tag = "1")]
    pub value: Vec<Value>,
}

/// A value.
#[derive(Clone, PartialEq, Message)]
pub struct Value {
    /// Its name; charts are grouped by what stands before the first `/`.
    #[prost(string, tag = "1")]
    pub tag: String,
    /// The value itself.
    #[prost(oneof = "Content", tags = "2, 4, 8")]
    pub content: Option<Content>,
    /// Which plugin shows it.
    #[prost(message, optional, tag = "9")]
    pub metadata: Option<Metadata>,
}

/// The content of a value.
#[derive(Clone, PartialEq, Oneof)]
pub enum Content {
    /// A number.
    #[prost(float, tag = "2")]
    SimpleValue(f32),
    /// A picture.
    #[prost(message, tag = "4")]
    Image(Image),
    /// Anything else.
    #[prost(message, tag = "8")]
    Tensor(Tensor),
}

/// A picture.
#[derive(Clone, PartialEq, Message)]
pub struct Image {
    /// Pixels.
    #[prost(int32, tag = "1")]
    pub height: i32,
    /// Pixels.
    #[prost(int32, tag = "2")]
    pub width: i32,
    /// Number of channels: 1 gray, 2 gray and alpha, 3 RGB, 4 RGBA.
    #[prost(int32, tag = "3")]
    pub colorspace: i32,
    /// A PNG file.
    #[prost(bytes = "vec", tag = "4")]
    pub encoded_image_string: Vec<u8>,
}

/// Numbers or texts.
#[derive(Clone, PartialEq, Message)]
pub struct Tensor {
    /// Type of the elements: [`FLOAT`] or [`STRING`].
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    /// Its shape.
    #[prost(message, optional, tag = "2")]
    pub tensor_shape: Option<TensorShape>,
    /// The elements, if they are texts.
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
}

/// [`Tensor::dtype`] of numbers in f32.
pub const FLOAT: i32 = 1;
/// [`Tensor::dtype`] of texts.
pub const STRING: i32 = 7;

/// The shape of a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShape {
    /// Its dimensions.
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dimension>,
}

/// A dimension.
#[derive(Clone, PartialEq, Message)]
pub struct Dimension {
    /// How many elements.
    #[prost(int64, tag = "1")]
    pub size: i64,
}

/// How a value is shown.
#[derive(Clone, PartialEq, Message)]
pub struct Metadata {
    /// The plugin that shows it.
    #[prost(message, optional, tag = "1")]
    pub plugin_data: Option<PluginData>,
    /// What it is, in Markdown.
    #[prost(string, tag = "3")]
    pub summary_description: String,
}

/// A plugin, and what it is to know.
#[derive(Clone, PartialEq, Message)]
pub struct PluginData {
    /// Its name: `images`, `text` or `hparams`.
    #[prost(string, tag = "1")]
    pub plugin_name: String,
    /// A message of its own.
    #[prost(bytes = "vec", tag = "2")]
    pub content: Vec<u8>,
}

/// What the plugin hparams knows of a run.
#[derive(Clone, PartialEq, Message)]
pub struct Hyperparameters {
    /// Its start or its end.
    #[prost(oneof = "Session", tags = "3, 4")]
    pub session: Option<Session>,
}

/// The start or the end of a run.
#[derive(Clone, PartialEq, Oneof)]
pub enum Session {
    /// Its start.
    #[prost(message, tag = "3")]
    Start(SessionStart),
    /// Its end.
    #[prost(message, tag = "4")]
    End(SessionEnd),
}

/// A run's start.
#[derive(Clone, PartialEq, Message)]
pub struct SessionStart {
    /// Its hyperparameters.
    #[prost(btree_map = "string, message", tag = "1")]
    pub hparams: BTreeMap<String, Hyperparameter>,
    /// When it started, in seconds since 1970, UTC.
    #[prost(double, tag = "5")]
    pub start_time_secs: f64,
}

/// A hyperparameter's value.
#[derive(Clone, PartialEq, Message)]
pub struct Hyperparameter {
    /// Its value.
    #[prost(oneof = "Kind", tags = "2, 3, 4")]
    pub kind: Option<Kind>,
}

/// The value of a hyperparameter.
#[derive(Clone, PartialEq, Oneof)]
pub enum Kind {
    /// A number.
    #[prost(double, tag = "2")]
    Number(f64),
    /// A text.
    #[prost(string, tag = "3")]
    Text(String),
    /// Yes or no.
    #[prost(bool, tag = "4")]
    Bool(bool),
}

/// A run's end.
#[derive(Clone, PartialEq, Message)]
pub struct SessionEnd {
    /// How it ended.
    #[prost(enumeration = "Status", tag = "1")]
    pub status: i32,
    /// When it ended, in seconds since 1970, UTC.
    #[prost(double, tag = "2")]
    pub end_time_secs: f64,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Status {
    /// It may be resumed.
    Unknown = 0,
    /// Finished.
    Success = 1,
    /// Failed or diverged.
    Failure = 2,
    /// It is still training.
    Running = 3,
}

impl Value {
    /// A number.
    pub(crate) fn scalar(tag: impl Into<String>, value: f64) -> Self {
        Self { tag: tag.into(), content: Some(Content::SimpleValue(value as f32)), metadata: None }
    }

    /// A text in Markdown.
    pub(crate) fn text(tag: &str, text: String) -> Self {
        // Without dimensions: texts of an array are shown as a table.
        let shape = Some(TensorShape::default());
        let tensor = Tensor { dtype: STRING, tensor_shape: shape, string_val: vec![text.into_bytes()] };
        let metadata = Metadata::of_plugin("text", Vec::new());
        Self { tag: tag.to_owned(), content: Some(Content::Tensor(tensor)), metadata: Some(metadata) }
    }

    /// A picture with a line that says what it shows.
    pub(crate) fn image(tag: String, image: Image, description: String) -> Self {
        let metadata = Metadata { summary_description: description, ..Metadata::of_plugin("images", Vec::new()) };
        Self { tag, content: Some(Content::Image(image)), metadata: Some(metadata) }
    }

    /// The start or the end of a run.
    pub(crate) fn session(session: Session) -> Self {
        let name = if matches!(session, Session::Start(_)) { "session_start_info" } else { "session_end_info" };
        // The plugin reads the metadata alone; a value must have a content all the same.
        let shape = TensorShape { dim: vec![Dimension { size: 0 }] };
        let nothing = Tensor { dtype: FLOAT, tensor_shape: Some(shape), string_val: Vec::new() };
        let content = Hyperparameters { session: Some(session) }.encode_to_vec();
        let metadata = Metadata::of_plugin("hparams", content);
        Self { tag: format!("_hparams_/{name}"), content: Some(Content::Tensor(nothing)), metadata: Some(metadata) }
    }
}

impl Metadata {
    fn of_plugin(name: &str, content: Vec<u8>) -> Self {
        let plugin = PluginData { plugin_name: name.to_owned(), content };
        Self { plugin_data: Some(plugin), ..Self::default() }
    }
}
