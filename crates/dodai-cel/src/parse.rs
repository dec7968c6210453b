//! Tokens to an expression, by recursive descent with a bounded depth.

use regex::Regex;

use super::Malformed;
use super::lex::{Kind, Token};

/// How deep expressions may stand in each other.
const MAX_DEPTH: usize = 48;

/// An expression.
#[derive(Debug)]
pub(super) enum Expression {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(std::sync::Arc<str>),
    /// What the program is about, or the variable of a macro.
    Variable(String),
    List(Vec<Expression>),
    Map(Vec<(Expression, Expression)>),
    Field(Box<Expression>, String),
    /// `has(e.f)`
    Has(Box<Expression>, String),
    Index(Box<Expression>, Box<Expression>),
    Not(Box<Expression>),
    Negative(Box<Expression>),
    And(Box<Expression>, Box<Expression>),
    Or(Box<Expression>, Box<Expression>),
    Choice(Box<Expression>, Box<Expression>, Box<Expression>),
    Binary(Operator, Box<Expression>, Box<Expression>),
    Call(Function, Vec<Expression>),
    /// `text.matches("literal")`, compiled.
    Matches(Box<Expression>, Regex),
    /// `list.all(x, e)` and its kin.
    Each(Macro, Box<Expression>, String, Box<Expression>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Rest,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Matches,
    Int,
    Uint,
    Double,
    String,
    Bool,
    Type,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Macro {
    All,
    Exists,
    ExistsOne,
    Filter,
    Map,
}

/// Functions by name, with how many arguments they take, the receiver among them, and whether they may stand
/// without one.
const FUNCTIONS: [(&str, Function, usize, bool); 11] = [
    ("size", Function::Size, 1, true),
    ("contains", Function::Contains, 2, false),
    ("startsWith", Function::StartsWith, 2, false),
    ("endsWith", Function::EndsWith, 2, false),
    ("matches", Function::Matches, 2, true),
    ("int", Function::Int, 1, true),
    ("uint", Function::Uint, 1, true),
    ("double", Function::Double, 1, true),
    ("string", Function::String, 1, true),
    ("bool", Function::Bool, 1, true),
    ("type", Function::Type, 1, true),
];

const MACROS: [(&str, Macro); 5] = [
    ("all", Macro::All),
    ("exists", Macro::Exists),
    ("exists_one", Macro::ExistsOne),
    ("filter", Macro::Filter),
    ("map", Macro::Map),
];

struct Parser<'a> {
    tokens: std::iter::Peekable<std::vec::IntoIter<Token>>,
    /// What the program is about.
    names: &'a [&'a str],
    /// Variables of the macros around.
    bound: Vec<String>,
    depth: usize,
}

type Parsed = Result<Expression, Malformed>;

/// Reads the one expression over `names` that the tokens are.
pub(super) fn parse(tokens: Vec<Token>, names: &[&str]) -> Parsed {
    let mut parser = Parser { tokens: tokens.into_iter().peekable(), names, bound: Vec::new(), depth: 0 };
    let expression = parser.expression()?;
    match parser.take() {
        Token { kind: Kind::End, .. } => Ok(expression),
        rest => Err(unexpected(&rest)),
    }
}

fn shown(kind: &Kind) -> String {
    match kind {
        Kind::Name(name) => format!("`{name}`"),
        Kind::Int(number) | Kind::Uint(number) => format!("`{number}`"),
        Kind::Double(number) => format!("`{number}`"),
        Kind::Text(text) => format!("the text `{text}`"),
        Kind::Sign(sign) => format!("`{sign}`"),
        Kind::End => "the end".to_owned(),
    }
}

fn unexpected(token: &Token) -> Malformed {
    Malformed::new(token.at, format!("{} was not expected here", shown(&token.kind)))
}

impl Parser<'_> {
    fn take(&mut self) -> Token {
        self.tokens.next().unwrap_or(Token { at: 0, kind: Kind::End })
    }

    fn place(&mut self) -> usize {
        self.tokens.peek().map_or(0, |token| token.at)
    }

    /// Takes a sign if it is the next token.
    fn takes(&mut self, sign: &'static str) -> bool {
        self.tokens.next_if(|token| token.kind == Kind::Sign(sign)).is_some()
    }

    fn needs(&mut self, sign: &'static str) -> Result<(), Malformed> {
        let token = self.take();
        if token.kind == Kind::Sign(sign) {
            return Ok(());
        }
        Err(Malformed::new(token.at, format!("`{sign}` is missing before {}", shown(&token.kind))))
    }

    fn expression(&mut self) -> Parsed {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Malformed::new(self.place(), "too deep; write fewer brackets"));
        }
        let condition = self.or()?;
        let whole = if self.takes("?") {
            let then = self.or()?;
            self.needs(":")?;
            let other = self.expression()?;
            Expression::Choice(Box::new(condition), Box::new(then), Box::new(other))
        } else {
            condition
        };
        self.depth -= 1;
        Ok(whole)
    }

    fn or(&mut self) -> Parsed {
        let mut left = self.and()?;
        while self.takes("||") {
            left = Expression::Or(Box::new(left), Box::new(self.and()?));
        }
        Ok(left)
    }

    fn and(&mut self) -> Parsed {
        let mut left = self.relation()?;
        while self.takes("&&") {
            left = Expression::And(Box::new(left), Box::new(self.relation()?));
        }
        Ok(left)
    }

    fn relation(&mut self) -> Parsed {
        const SIGNS: [(&str, Operator); 6] = [
            ("==", Operator::Equal),
            ("!=", Operator::NotEqual),
            ("<=", Operator::AtMost),
            (">=", Operator::AtLeast),
            ("<", Operator::Less),
            (">", Operator::Greater),
        ];
        let mut left = self.sum()?;
        loop {
            let named =
                self.tokens.next_if(|token| token.kind == Kind::Name("in".to_owned())).map(|_| Operator::In);
            let sign = || SIGNS.iter().find(|(sign, _)| self.takes(sign)).map(|(_, operator)| *operator);
            let Some(operator) = named.or_else(sign) else { return Ok(left) };
            left = Expression::Binary(operator, Box::new(left), Box::new(self.sum()?));
        }
    }

    fn sum(&mut self) -> Parsed {
        let mut left = self.product()?;
        loop {
            let operator = if self.takes("+") {
                Operator::Add
            } else if self.takes("-") {
                Operator::Subtract
            } else {
                return Ok(left);
            };
            left = Expression::Binary(operator, Box::new(left), Box::new(self.product()?));
        }
    }

    fn product(&mut self) -> Parsed {
        let mut left = self.unary()?;
        loop {
            let operator = if self.takes("*") {
                Operator::Multiply
            } else if self.takes("/") {
                Operator::Divide
            } else if self.takes("%") {
                Operator::Rest
            } else {
                return Ok(left);
            };
            left = Expression::Binary(operator, Box::new(left), Box::new(self.unary()?));
        }
    }

    fn unary(&mut self) -> Parsed {
        let mut nots = 0_u32;
        while self.takes("!") {
            nots += 1;
        }
        let mut minuses = 0_u32;
        while nots == 0 && self.takes("-") {
            minuses += 1;
        }
        let place = self.place();
        if minuses % 2 == 1
            && let Some(Token { kind: Kind::Int(number), .. }) =
                self.tokens.next_if(|token| matches!(token.kind, Kind::Int(_)))
        {
            let number = i64::try_from(-i128::from(number));
            let number = number.map_err(|_| Malformed::new(place, "the number is too small"))?;
            return self.members(Expression::Int(number));
        }
        let inner = self.primary()?;
        let inner = self.members(inner)?;
        // Twice is not at all, but what is negated must still be of the sort that can be.
        Ok(match (nots, minuses) {
            (0, 0) => inner,
            (nots, 0) if nots % 2 == 1 => Expression::Not(Box::new(inner)),
            (_, 0) => Expression::Not(Box::new(Expression::Not(Box::new(inner)))),
            (_, minuses) if minuses % 2 == 1 => Expression::Negative(Box::new(inner)),
            _ => Expression::Negative(Box::new(Expression::Negative(Box::new(inner)))),
        })
    }

    fn members(&mut self, mut of: Expression) -> Parsed {
        loop {
            if self.takes(".") {
                let token = self.take();
                let Kind::Name(name) = token.kind else {
                    return Err(Malformed::new(token.at, "a field's name is missing after `.`"));
                };
                of = if self.takes("(") {
                    self.method(of, &name, token.at)?
                } else {
                    Expression::Field(Box::new(of), name)
                };
            } else if self.takes("[") {
                let index = self.expression()?;
                self.needs("]")?;
                of = Expression::Index(Box::new(of), Box::new(index));
            } else {
                return Ok(of);
            }
        }
    }

    fn method(&mut self, of: Expression, name: &str, at: usize) -> Parsed {
        if let Some((_, each)) = MACROS.iter().find(|(known, _)| *known == name) {
            return self.each(*each, of, at);
        }
        let mut arguments = vec![of];
        arguments.extend(self.list(")")?);
        call(name, arguments, true, at)
    }

    fn each(&mut self, each: Macro, of: Expression, at: usize) -> Parsed {
        let Token { kind: Kind::Name(variable), .. } = self.take() else {
            return Err(Malformed::new(at, "the macro needs a variable: `list.all(x, x > 0)`"));
        };
        self.needs(",")?;
        self.bound.push(variable.clone());
        let body = self.expression()?;
        self.bound.pop();
        self.needs(")")?;
        Ok(Expression::Each(each, Box::new(of), variable, Box::new(body)))
    }

    /// Expressions with commas between, up to `end`.
    fn list(&mut self, end: &'static str) -> Result<Vec<Expression>, Malformed> {
        let mut list = Vec::new();
        while !self.takes(end) {
            list.push(self.expression()?);
            if !self.takes(",") {
                self.needs(end)?;
                break;
            }
        }
        Ok(list)
    }

    fn primary(&mut self) -> Parsed {
        let token = self.take();
        Ok(match token.kind {
            Kind::Int(number) => {
                let number = i64::try_from(number);
                Expression::Int(number.map_err(|_| Malformed::new(token.at, "the number is too large"))?)
            }
            Kind::Uint(number) => Expression::Uint(number),
            Kind::Double(number) => Expression::Double(number),
            Kind::Text(text) => Expression::Text(text.into()),
            Kind::Name(name) => return self.named(name, token.at),
            Kind::Sign("(") => {
                let inner = self.expression()?;
                self.needs(")")?;
                inner
            }
            Kind::Sign("[") => Expression::List(self.list("]")?),
            Kind::Sign("{") => self.map()?,
            Kind::Sign(_) | Kind::End => return Err(unexpected(&token)),
        })
    }

    fn map(&mut self) -> Parsed {
        let mut pairs = Vec::new();
        while !self.takes("}") {
            let key = self.expression()?;
            self.needs(":")?;
            pairs.push((key, self.expression()?));
            if !self.takes(",") {
                self.needs("}")?;
                break;
            }
        }
        Ok(Expression::Map(pairs))
    }

    fn named(&mut self, name: String, at: usize) -> Parsed {
        match name.as_str() {
            "true" => return Ok(Expression::Bool(true)),
            "false" => return Ok(Expression::Bool(false)),
            "null" => return Ok(Expression::Null),
            _ => {}
        }
        if self.takes("(") {
            if name == "has" {
                return self.has(at);
            }
            let arguments = self.list(")")?;
            return call(&name, arguments, false, at);
        }
        if self.names.contains(&name.as_str()) || self.bound.contains(&name) {
            return Ok(Expression::Variable(name));
        }
        let known = self.names.iter().map(|known| format!("`{known}`")).collect::<Vec<_>>().join(" and ");
        let first = self.names.first().copied().unwrap_or_default();
        Err(Malformed::new(
            at,
            format!("`{name}` is not known; expressions are about {known}: `{first}.{name}`"),
        ))
    }

    fn has(&mut self, at: usize) -> Parsed {
        let inner = self.expression()?;
        self.needs(")")?;
        let Expression::Field(of, name) = inner else {
            return Err(Malformed::new(at, "has() asks for a field: `has(event.data.x)`"));
        };
        Ok(Expression::Has(of, name))
    }
}

fn call(name: &str, mut arguments: Vec<Expression>, method: bool, at: usize) -> Parsed {
    let known = FUNCTIONS.iter().find(|(known, ..)| *known == name);
    let Some((_, function, count, alone)) = known else {
        let names: Vec<&str> = FUNCTIONS.iter().map(|(name, ..)| *name).collect();
        let message = format!("there is no function `{name}`; there are has, {}", names.join(", "));
        return Err(Malformed::new(at, message));
    };
    if arguments.len() != *count || (!method && !alone) {
        let shape = if *alone { format!("{name}(..)") } else { format!("text.{name}(..)") };
        let message = format!("`{name}` takes {count} values, the one before the dot among them: `{shape}`");
        return Err(Malformed::new(at, message));
    }
    if let (Function::Matches, [_, Expression::Text(pattern)]) = (*function, arguments.as_slice()) {
        let pattern = Regex::new(pattern)
            .map_err(|error| Malformed::new(at, format!("the pattern cannot be read: {error}")))?;
        return Ok(Expression::Matches(Box::new(arguments.swap_remove(0)), pattern));
    }
    Ok(Expression::Call(*function, arguments))
}
