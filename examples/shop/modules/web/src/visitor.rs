//! Who looks: a random cookie that names a cart.

use shop_guest::{Request, Response};

const COOKIE: &str = "shop-visitor";
const ID_LEN: usize = 32;

/// A visitor.
pub struct Visitor {
    /// 32 hexadecimal digits; nothing else ever gets into a path or a key.
    pub id: String,
    is_new: bool,
}

impl Visitor {
    /// The visitor the cookie names, or a new one made of 16 random bytes.
    pub fn of(request: &Request, random: impl FnOnce() -> Vec<u8>) -> Visitor {
        match request.cookie(COOKIE).filter(|id| is_id(id)) {
            Some(id) => Visitor { id: id.into(), is_new: false },
            None => Visitor { id: random().iter().map(|byte| format!("{byte:02x}")).collect(), is_new: true },
        }
    }

    /// Tells a new visitor's browser who it is.
    pub fn remember(&self, response: Response) -> Response {
        if !self.is_new {
            return response;
        }
        response.with(
            "set-cookie",
            format!("{COOKIE}={}; Path=/; Max-Age=2592000; HttpOnly; SameSite=Lax", self.id),
        )
    }
}

fn is_id(text: &str) -> bool {
    text.len() == ID_LEN && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visitor(cookie: &str) -> Visitor {
        let headers = vec![("cookie".into(), cookie.into())];
        Visitor::of(&Request { headers, ..Request::default() }, || vec![0xab; 16])
    }

    #[test]
    fn a_known_visitor_keeps_the_id_and_gets_no_cookie() {
        let known = visitor("shop-visitor=0123456789abcdef0123456789abcdef");
        assert_eq!(known.id, "0123456789abcdef0123456789abcdef");
        assert!(known.remember(Response::empty(204)).headers.is_empty());
    }

    #[test]
    fn anything_but_an_id_is_a_new_visitor() {
        for cookie in ["", "shop-visitor=", "shop-visitor=../../orders", "shop-visitor=0123"] {
            let new = visitor(cookie);
            assert_eq!(new.id, "ab".repeat(16), "{cookie:?}");
            assert_eq!(new.remember(Response::empty(204)).headers.len(), 1);
        }
    }
}
