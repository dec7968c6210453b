//! The assortment.

/// A product.
pub struct Product {
    /// Names it in URLs and keys.
    pub id: &'static str,
    /// Names it for people.
    pub name: &'static str,
    /// One sentence.
    pub blurb: &'static str,
    /// What it is made of.
    pub tag: &'static str,
    /// The list price in euro cents.
    pub cents: u64,
    /// How many there are before the first sale.
    pub stock: u64,
}

/// Everything on sale.
pub const PRODUCTS: [Product; 8] = [
    Product {
        id: "teapot",
        name: "Kyusu teapot",
        blurb: "Side-handled, for two small cups and a quiet quarter of an hour.",
        tag: "Stoneware",
        cents: 6400,
        stock: 40,
    },
    Product {
        id: "cups",
        name: "Yunomi cups",
        blurb: "A pair that sits well in cold hands. No two are quite alike.",
        tag: "Stoneware",
        cents: 3200,
        stock: 80,
    },
    Product {
        id: "lantern",
        name: "Paper lantern",
        blurb: "Washi over split bamboo: a warm and even light.",
        tag: "Paper",
        cents: 5800,
        stock: 30,
    },
    Product {
        id: "plane",
        name: "Kanna plane",
        blurb: "Takes a shaving thin enough to read through.",
        tag: "White oak",
        cents: 11900,
        stock: 12,
    },
    Product {
        id: "broom",
        name: "Hand broom",
        blurb: "Bound with copper wire, good for thirty years of crumbs.",
        tag: "Straw",
        cents: 2400,
        stock: 60,
    },
    Product {
        id: "knife",
        name: "Santoku knife",
        blurb: "One blade for the whole kitchen, and a saya to keep it in.",
        tag: "Blue steel",
        cents: 13800,
        stock: 15,
    },
    Product {
        id: "bell",
        name: "Wind bell",
        blurb: "Cast iron, one clear note whenever the window is open.",
        tag: "Cast iron",
        cents: 2900,
        stock: 50,
    },
    Product {
        id: "notebook",
        name: "Stitched notebook",
        blurb: "Lies flat, takes ink, and keeps a secret.",
        tag: "Paper",
        cents: 1600,
        stock: 120,
    },
];

/// The product of this id.
pub fn find(id: &str) -> Option<&'static Product> {
    PRODUCTS.iter().find(|product| product.id == id)
}

/// A price less `percent`, rounded to the nearest cent, half a cent up.
pub fn discounted(cents: u64, percent: u8) -> u64 {
    (cents * (100 - u64::from(percent.min(100))) + 50) / 100
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_unique_and_safe_in_urls() {
        for (at, product) in PRODUCTS.iter().enumerate() {
            assert!(product.id.bytes().all(|byte| byte.is_ascii_lowercase()), "{}", product.id);
            assert!(
                PRODUCTS[at + 1..].iter().all(|other| other.id != product.id),
                "{} is there twice",
                product.id
            );
        }
    }

    #[test]
    fn a_discount_rounds_half_a_cent_up() {
        for (cents, percent, expected) in
            [(6400, 0, 6400), (6400, 15, 5440), (999, 10, 899), (5, 50, 3), (1, 90, 0)]
        {
            assert_eq!(discounted(cents, percent), expected, "{cents} less {percent} %");
        }
    }
}
