//! Which operation of ONNX does what one of Burn's does.

use burn::backend::ir::{
    ActivationOperationIr, BaseOperationIr, BoolOperationIr, CastOpIr, FloatOperationIr, IntOperationIr,
    NumericOperationIr, OperationIr, ScalarIr, ScalarOpIr, TensorIr,
};

use super::graph::Number;

/// Operations that have one of their own in ONNX, with the same operands.
pub(super) fn plain(operation: &OperationIr) -> Option<&'static str> {
    use FloatOperationIr as F;
    use NumericOperationIr as N;
    Some(match operation {
        OperationIr::Float(_, float) => match float {
            F::Exp(_) => "Exp",
            F::Log(_) => "Log",
            F::Erf(_) => "Erf",
            F::Sqrt(_) => "Sqrt",
            F::Cos(_) => "Cos",
            F::Cosh(_) => "Cosh",
            F::Sin(_) => "Sin",
            F::Sinh(_) => "Sinh",
            F::Tan(_) => "Tan",
            F::Tanh(_) => "Tanh",
            F::ArcCos(_) => "Acos",
            F::ArcCosh(_) => "Acosh",
            F::ArcSin(_) => "Asin",
            F::ArcSinh(_) => "Asinh",
            F::ArcTan(_) => "Atan",
            F::ArcTanh(_) => "Atanh",
            F::Round(_) => "Round",
            F::Floor(_) => "Floor",
            F::Ceil(_) => "Ceil",
            F::Matmul(_) => "MatMul",
            F::Recip(_) => "Reciprocal",
            F::IsNan(_) => "IsNaN",
            F::IsInf(_) => "IsInf",
            F::Powf(_) => "Pow",
            _ => return None,
        },
        OperationIr::NumericFloat(_, numeric) | OperationIr::NumericInt(_, numeric) => match numeric {
            N::Add(_) => "Add",
            N::Sub(_) => "Sub",
            N::Mul(_) => "Mul",
            N::Div(_) => "Div",
            N::Abs(_) => "Abs",
            N::Neg(_) => "Neg",
            N::Sign(_) => "Sign",
            N::Powi(_) => "Pow",
            N::Greater(_) => "Greater",
            N::GreaterEqual(_) => "GreaterOrEqual",
            N::Lower(_) => "Less",
            N::LowerEqual(_) => "LessOrEqual",
            _ => return None,
        },
        OperationIr::BaseFloat(base) | OperationIr::BaseInt(base) | OperationIr::BaseBool(base) => match base {
            BaseOperationIr::Equal(_) => "Equal",
            _ => return None,
        },
        OperationIr::Bool(bool) => match bool {
            BoolOperationIr::Not(_) => "Not",
            BoolOperationIr::And(_) => "And",
            BoolOperationIr::Or(_) => "Or",
            BoolOperationIr::Xor(_) => "Xor",
            _ => return None,
        },
        OperationIr::Int(IntOperationIr::Matmul(_)) => "MatMul",
        OperationIr::Activation(activation) => match activation {
            ActivationOperationIr::Relu(_) => "Relu",
            ActivationOperationIr::Sigmoid(_) => "Sigmoid",
            ActivationOperationIr::PRelu(_) => "PRelu",
            _ => return None,
        },
        _ => return None,
    })
}

/// Operations of a tensor and a number, by the name of the one that takes two tensors.
pub(super) fn scalar(operation: &OperationIr) -> Option<(&'static str, &ScalarOpIr)> {
    use NumericOperationIr as N;
    Some(match operation {
        OperationIr::NumericFloat(_, numeric) | OperationIr::NumericInt(_, numeric) => match numeric {
            N::AddScalar(it) => ("Add", it),
            N::SubScalar(it) => ("Sub", it),
            N::MulScalar(it) => ("Mul", it),
            N::DivScalar(it) => ("Div", it),
            N::PowiScalar(it) => ("Pow", it),
            N::GreaterElem(it) => ("Greater", it),
            N::GreaterEqualElem(it) => ("GreaterOrEqual", it),
            N::LowerElem(it) => ("Less", it),
            N::LowerEqualElem(it) => ("LessOrEqual", it),
            N::ClampMin(it) => ("Clip", it),
            _ => return None,
        },
        OperationIr::BaseFloat(BaseOperationIr::EqualElem(it))
        | OperationIr::BaseInt(BaseOperationIr::EqualElem(it))
        | OperationIr::BaseBool(BaseOperationIr::EqualElem(it)) => ("Equal", it),
        OperationIr::Float(_, FloatOperationIr::PowfScalar(it)) => ("Pow", it),
        _ => return None,
    })
}

/// Changes of a type.
pub(super) fn cast(operation: &OperationIr) -> Option<&CastOpIr> {
    match operation {
        OperationIr::BaseFloat(BaseOperationIr::Cast(it))
        | OperationIr::BaseInt(BaseOperationIr::Cast(it))
        | OperationIr::BaseBool(BaseOperationIr::Cast(it))
        | OperationIr::Float(_, FloatOperationIr::IntoInt(it))
        | OperationIr::Int(IntOperationIr::IntoFloat(it))
        | OperationIr::Bool(BoolOperationIr::IntoFloat(it) | BoolOperationIr::IntoInt(it)) => Some(it),
        _ => None,
    }
}

/// Reductions: of the axes named, which stay with a size of 1, or of all to one number.
pub(super) fn reduction(operation: &OperationIr) -> Option<(&'static str, &TensorIr, Option<Vec<usize>>)> {
    use NumericOperationIr as N;
    let (OperationIr::NumericFloat(_, numeric) | OperationIr::NumericInt(_, numeric)) = operation else { return None };
    Some(match numeric {
        N::MeanDim(it) => ("ReduceMean", &it.input, Some(vec![it.axis])),
        N::SumDim(it) => ("ReduceSum", &it.input, Some(vec![it.axis])),
        N::ProdDim(it) => ("ReduceProd", &it.input, Some(vec![it.axis])),
        N::MaxDim(it) => ("ReduceMax", &it.input, Some(vec![it.axis])),
        N::MinDim(it) => ("ReduceMin", &it.input, Some(vec![it.axis])),
        N::SumDims(it) => ("ReduceSum", &it.input, Some(it.axes.clone())),
        N::Mean(it) => ("ReduceMean", &it.input, None),
        N::Sum(it) => ("ReduceSum", &it.input, None),
        N::Prod(it) => ("ReduceProd", &it.input, None),
        N::Max(it) => ("ReduceMax", &it.input, None),
        N::Min(it) => ("ReduceMin", &it.input, None),
        _ => return None,
    })
}

/// A number of Burn's.
pub(super) fn number(scalar: ScalarIr) -> Number {
    match scalar {
        ScalarIr::Float(float) => Number::float(float),
        ScalarIr::Int(int) => Number { float: int as f64, int },
        ScalarIr::UInt(int) => Number { float: int as f64, int: int as i64 },
        ScalarIr::Bool(bool) => Number::float(f64::from(u8::from(bool))),
    }
}
