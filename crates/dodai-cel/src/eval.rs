//! An expression and what it is about to a value.
//!
//! As the language has it: `&&` and `||` look past a side that cannot be told when the other side decides;
//! numbers of different sorts compare and never mix; nothing overflows unseen.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "what an operation cannot be done with is one answer for all other sorts of values"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use regex::RegexBuilder;

use super::parse::{Expression, Function, Macro, Operator};
use super::value::Value;

/// Steps of one run at most, so that nested macros over a large message end.
const MAX_STEPS: usize = 100_000;
/// The longest text or list that may be made.
const MAX_LENGTH: usize = 1 << 20;
/// The largest pattern in bytes, once compiled, that a message itself may bring.
const MAX_PATTERN: usize = 1 << 16;

/// Why a program has no answer for an event.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Trouble(String);

impl Trouble {
    pub(super) fn new(what: impl Into<String>) -> Trouble {
        Trouble(what.into())
    }
}

type Found = Result<Value, Trouble>;

struct Run<'a> {
    /// What the program is about, by name.
    values: &'a [(&'a str, Value)],
    /// Variables of the macros around, innermost last.
    bound: Vec<(&'a str, Value)>,
    steps: usize,
}

/// The value of an expression over `values`.
pub(super) fn run(root: &Expression, values: &[(&str, Value)]) -> Found {
    Run { values, bound: Vec::new(), steps: 0 }.value(root)
}

fn unfit(what: &str, value: &Value) -> Trouble {
    Trouble::new(format!("{what} cannot be done with a {}", value.kind()))
}

impl<'a> Run<'a> {
    fn step(&mut self) -> Result<(), Trouble> {
        self.steps += 1;
        if self.steps > MAX_STEPS {
            return Err(Trouble::new("the rule takes too many steps for this message"));
        }
        Ok(())
    }

    fn value(&mut self, expression: &'a Expression) -> Found {
        self.step()?;
        match expression {
            Expression::Null => Ok(Value::Null),
            Expression::Bool(truth) => Ok(Value::Bool(*truth)),
            Expression::Int(number) => Ok(Value::Int(*number)),
            Expression::Uint(number) => Ok(Value::Uint(*number)),
            Expression::Double(number) => Ok(Value::Double(*number)),
            Expression::Text(text) => Ok(Value::Text(text.clone())),
            Expression::Variable(name) => self.variable(name),
            Expression::List(list) => {
                let values: Result<Arc<[Value]>, Trouble> = list.iter().map(|one| self.value(one)).collect();
                Ok(Value::List(values?))
            }
            Expression::Map(pairs) => self.map(pairs),
            Expression::Field(of, name) => {
                let of = self.value(of)?;
                field(&of, name)?.ok_or_else(|| Trouble::new(format!("there is no field `{name}`")))
            }
            Expression::Has(of, name) => {
                let of = self.value(of)?;
                Ok(Value::Bool(field(&of, name)?.is_some()))
            }
            Expression::Index(of, index) => {
                let (of, index) = (self.value(of)?, self.value(index)?);
                at(&of, &index)
            }
            Expression::Not(of) => Ok(Value::Bool(!self.truth(of)?)),
            Expression::Negative(of) => negative(&self.value(of)?),
            Expression::And(left, right) => self.decided(left, right, false),
            Expression::Or(left, right) => self.decided(left, right, true),
            Expression::Choice(condition, then, other) => {
                let chosen = if self.truth(condition)? { then } else { other };
                self.value(chosen)
            }
            Expression::Binary(operator, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                binary(*operator, &left, &right)
            }
            Expression::Call(function, arguments) => {
                let arguments: Result<Vec<Value>, Trouble> =
                    arguments.iter().map(|one| self.value(one)).collect();
                call(*function, &arguments?)
            }
            Expression::Matches(of, pattern) => match self.value(of)? {
                Value::Text(text) => Ok(Value::Bool(pattern.is_match(&text))),
                other => Err(unfit("matches()", &other)),
            },
            Expression::Each(each, of, variable, body) => self.each(*each, of, variable, body),
        }
    }

    fn variable(&self, name: &str) -> Found {
        let bound = self.bound.iter().rev().chain(self.values).find(|(known, _)| *known == name);
        bound
            .map(|(_, value)| value.clone())
            .ok_or_else(|| Trouble::new(format!("`{name}` has no value here")))
    }

    fn truth(&mut self, expression: &'a Expression) -> Result<bool, Trouble> {
        match self.value(expression)? {
            Value::Bool(truth) => Ok(truth),
            other => Err(unfit("a choice between true and false", &other)),
        }
    }

    /// `&&` is decided by false and `||` by true, on either side, whatever is wrong with the other.
    fn decided(&mut self, left: &'a Expression, right: &'a Expression, by: bool) -> Found {
        let left = self.truth(left);
        if left == Ok(by) {
            return Ok(Value::Bool(by));
        }
        let right = self.truth(right);
        if right == Ok(by) {
            return Ok(Value::Bool(by));
        }
        left.and(right).map(Value::Bool)
    }

    fn map(&mut self, pairs: &'a [(Expression, Expression)]) -> Found {
        let mut map = BTreeMap::new();
        for (key, value) in pairs {
            let Value::Text(key) = self.value(key)? else {
                return Err(Trouble::new("a map's keys are texts"));
            };
            map.insert(key.to_string(), self.value(value)?);
        }
        Ok(Value::Map(Arc::new(map)))
    }

    fn each(&mut self, each: Macro, of: &'a Expression, variable: &'a str, body: &'a Expression) -> Found {
        let items: Vec<Value> = match self.value(of)? {
            Value::List(list) => list.to_vec(),
            Value::Map(map) => map.keys().map(|key| Value::Text(key.as_str().into())).collect(),
            other => return Err(unfit("a macro over its items", &other)),
        };
        let mut trouble = None;
        let mut hits = 0_usize;
        let mut kept = Vec::new();
        for item in items {
            self.bound.push((variable, item.clone()));
            let found = if each == Macro::Map { self.value(body) } else { self.truth(body).map(Value::Bool) };
            self.bound.pop();
            match (each, found) {
                (Macro::Map, found) => kept.push(found?),
                (Macro::Filter, found) => {
                    if found? == Value::Bool(true) {
                        kept.push(item);
                    }
                }
                (Macro::ExistsOne, found) => hits += usize::from(found? == Value::Bool(true)),
                (Macro::All | Macro::Exists, Ok(Value::Bool(truth))) => {
                    if truth == (each == Macro::Exists) {
                        return Ok(Value::Bool(truth));
                    }
                }
                (Macro::All | Macro::Exists, Ok(_)) => {}
                (Macro::All | Macro::Exists, Err(error)) => trouble = Some(error),
            }
        }
        match (each, trouble) {
            (Macro::All | Macro::Exists, Some(error)) => Err(error),
            (Macro::All, None) => Ok(Value::Bool(true)),
            (Macro::Exists, None) => Ok(Value::Bool(false)),
            (Macro::ExistsOne, _) => Ok(Value::Bool(hits == 1)),
            (Macro::Filter | Macro::Map, _) => Ok(Value::List(kept.into())),
        }
    }
}

fn field(of: &Value, name: &str) -> Result<Option<Value>, Trouble> {
    match of {
        Value::Map(map) => Ok(map.get(name).cloned()),
        other => Err(Trouble::new(format!("a {} has no field `{name}`", other.kind()))),
    }
}

fn at(of: &Value, index: &Value) -> Found {
    let outside = || Trouble::new("the index is outside the list");
    match (of, index) {
        (Value::Map(_), Value::Text(name)) => {
            field(of, name)?.ok_or_else(|| Trouble::new(format!("there is no field `{name}`")))
        }
        (Value::List(list), Value::Int(index)) => {
            usize::try_from(*index).ok().and_then(|index| list.get(index)).cloned().ok_or_else(outside)
        }
        (Value::List(list), Value::Uint(index)) => {
            usize::try_from(*index).ok().and_then(|index| list.get(index)).cloned().ok_or_else(outside)
        }
        (of, index) => Err(Trouble::new(format!("a {} cannot be indexed by a {}", of.kind(), index.kind()))),
    }
}

fn overflow() -> Trouble {
    Trouble::new("the number does not fit")
}

fn negative(of: &Value) -> Found {
    match of {
        Value::Int(number) => number.checked_neg().map(Value::Int).ok_or_else(overflow),
        Value::Double(number) => Ok(Value::Double(-number)),
        other => Err(unfit("`-`", other)),
    }
}

fn binary(operator: Operator, left: &Value, right: &Value) -> Found {
    let ordered = |wanted: fn(std::cmp::Ordering) -> bool| {
        let same_sort = left.kind() == right.kind() || (left.number().is_some() && right.number().is_some());
        match left.order(right) {
            Some(order) => Ok(Value::Bool(wanted(order))),
            // What is no number stands nowhere among numbers.
            None if same_sort && left.number().is_some() => Ok(Value::Bool(false)),
            None => Err(Trouble::new(format!("a {} and a {} have no order", left.kind(), right.kind()))),
        }
    };
    match operator {
        Operator::Equal => Ok(Value::Bool(left == right)),
        Operator::NotEqual => Ok(Value::Bool(left != right)),
        Operator::Less => ordered(std::cmp::Ordering::is_lt),
        Operator::AtMost => ordered(std::cmp::Ordering::is_le),
        Operator::Greater => ordered(std::cmp::Ordering::is_gt),
        Operator::AtLeast => ordered(std::cmp::Ordering::is_ge),
        Operator::In => match (left, right) {
            (item, Value::List(list)) => Ok(Value::Bool(list.contains(item))),
            (Value::Text(key), Value::Map(map)) => Ok(Value::Bool(map.contains_key(&**key))),
            (_, Value::Map(_)) => Ok(Value::Bool(false)),
            (_, other) => Err(unfit("`in`", other)),
        },
        Operator::Add => added(left, right),
        Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Rest => {
            calculated(operator, left, right)
        }
    }
}

fn added(left: &Value, right: &Value) -> Found {
    let too_long = || Trouble::new("the text or list grows too long");
    match (left, right) {
        (Value::Text(a), Value::Text(b)) if a.len() + b.len() > MAX_LENGTH => Err(too_long()),
        (Value::Text(a), Value::Text(b)) => Ok(Value::Text([&**a, &**b].concat().into())),
        (Value::List(a), Value::List(b)) if a.len() + b.len() > MAX_LENGTH => Err(too_long()),
        (Value::List(a), Value::List(b)) => Ok(Value::List(a.iter().chain(&**b).cloned().collect())),
        _ => calculated(Operator::Add, left, right),
    }
}

/// One of the five operators on two whole numbers of a type; `None` where the result does not fit, or by zero.
macro_rules! checked {
    ($operator:expr, $a:expr, $b:expr) => {
        match $operator {
            Operator::Add => $a.checked_add(*$b),
            Operator::Subtract => $a.checked_sub(*$b),
            Operator::Multiply => $a.checked_mul(*$b),
            Operator::Divide => $a.checked_div(*$b),
            _ => $a.checked_rem(*$b),
        }
    };
}

fn calculated(operator: Operator, left: &Value, right: &Value) -> Found {
    match (left, right) {
        (Value::Int(a), Value::Int(b)) => checked!(operator, a, b).map(Value::Int).ok_or_else(overflow),
        (Value::Uint(a), Value::Uint(b)) => checked!(operator, a, b).map(Value::Uint).ok_or_else(overflow),
        (Value::Double(a), Value::Double(b)) => Ok(Value::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            _ => return Err(Trouble::new("`%` is for whole numbers")),
        })),
        (a, b) => Err(Trouble::new(format!("a {} and a {} cannot be calculated with", a.kind(), b.kind()))),
    }
}

fn call(function: Function, arguments: &[Value]) -> Found {
    let texts = || match arguments {
        [Value::Text(of), Value::Text(other)] => Ok((of.as_ref(), other.as_ref())),
        [of, other, ..] => {
            Err(Trouble::new(format!("the function takes texts, not a {} and a {}", of.kind(), other.kind())))
        }
        _ => Err(Trouble::new("the function takes two texts")),
    };
    let length = |count: usize| Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)));
    let Some(of) = arguments.first() else { return Err(Trouble::new("the function takes a value")) };
    match function {
        Function::Size => match of {
            Value::Text(text) => length(text.chars().count()),
            Value::List(list) => length(list.len()),
            Value::Map(map) => length(map.len()),
            other => Err(unfit("size()", other)),
        },
        Function::Contains => texts().map(|(of, other)| Value::Bool(of.contains(other))),
        Function::StartsWith => texts().map(|(of, other)| Value::Bool(of.starts_with(other))),
        Function::EndsWith => texts().map(|(of, other)| Value::Bool(of.ends_with(other))),
        Function::Matches => {
            let (of, pattern) = texts()?;
            let pattern = RegexBuilder::new(pattern).size_limit(MAX_PATTERN).build();
            let pattern = pattern.map_err(|_| Trouble::new("the pattern cannot be read"))?;
            Ok(Value::Bool(pattern.is_match(of)))
        }
        Function::Int => to_int(of),
        Function::Uint => match to_int(of) {
            Ok(Value::Int(number)) => u64::try_from(number).map(Value::Uint).map_err(|_| overflow()),
            other => match of {
                Value::Uint(_) => Ok(of.clone()),
                Value::Text(text) => text.parse().map(Value::Uint).map_err(|_| overflow()),
                _ => other,
            },
        },
        Function::Double => match (of.number(), of) {
            (Some(number), _) => Ok(Value::Double(number)),
            (None, Value::Text(text)) => {
                text.parse().map(Value::Double).map_err(|_| Trouble::new("the text is no number"))
            }
            (None, other) => Err(unfit("double()", other)),
        },
        Function::String => match of {
            Value::Text(_) => Ok(of.clone()),
            Value::Int(number) => Ok(Value::Text(number.to_string().into())),
            Value::Uint(number) => Ok(Value::Text(number.to_string().into())),
            Value::Double(number) => Ok(Value::Text(number.to_string().into())),
            Value::Bool(truth) => Ok(Value::Text(truth.to_string().into())),
            other => Err(unfit("string()", other)),
        },
        Function::Bool => match of {
            Value::Bool(_) => Ok(of.clone()),
            Value::Text(text) => match &**text {
                "true" | "True" | "TRUE" | "t" | "1" => Ok(Value::Bool(true)),
                "false" | "False" | "FALSE" | "f" | "0" => Ok(Value::Bool(false)),
                _ => Err(Trouble::new("the text is neither true nor false")),
            },
            other => Err(unfit("bool()", other)),
        },
        Function::Type => Ok(Value::Text(of.kind().into())),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the range is checked before, and the fraction is to go")]
fn to_int(of: &Value) -> Found {
    // Powers of two, so they are exact as fractions.
    const LEAST: f64 = -9_223_372_036_854_775_808.0;
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    match of {
        Value::Int(_) => Ok(of.clone()),
        Value::Uint(number) => i64::try_from(*number).map(Value::Int).map_err(|_| overflow()),
        Value::Double(number) if (LEAST..BEYOND).contains(number) => Ok(Value::Int(*number as i64)),
        Value::Double(_) => Err(overflow()),
        Value::Text(text) => {
            text.parse().map(Value::Int).map_err(|_| Trouble::new("the text is no whole number"))
        }
        other => Err(unfit("int()", other)),
    }
}
