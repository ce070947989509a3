//! From one delivery to one document, over kills and in any order.
