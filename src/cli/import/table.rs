//! One record of a table, by RFC 4180 and nothing looser: what a quotation mark means decides where a record
//! ends, and with it what of a file is a field and what is an account.

/// The fields of a record, which may have line breaks between quotation marks.
///
/// # Errors
/// Why it is none.
pub(super) fn cells(record: &str, delimiter: char) -> Result<Vec<String>, &'static str> {
    let mut cells = Vec::new();
    let mut rest = record;
    loop {
        let (cell, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_cell(quoted)?,
            None => plain_cell(rest, delimiter)?,
        };
        cells.push(cell);
        if after.is_empty() {
            return Ok(cells);
        }
        rest = after.strip_prefix(delimiter).ok_or("text behind the quotation mark that ends a field")?;
    }
}

fn quoted_cell(mut rest: &str) -> Result<(String, &str), &'static str> {
    let mut cell = String::new();
    loop {
        let (piece, after) = rest.split_once('"').ok_or("a quotation mark that is not closed")?;
        cell.push_str(piece);
        // Two of them are one.
        match after.strip_prefix('"') {
            None => return Ok((cell, after)),
            Some(more) => {
                cell.push('"');
                rest = more;
            }
        }
    }
}

fn plain_cell(rest: &str, delimiter: char) -> Result<(String, &str), &'static str> {
    let (cell, after) = rest.split_at(rest.find(delimiter).unwrap_or(rest.len()));
    if cell.contains('"') {
        return Err(
            "a quotation mark in the middle of a field; such a field is quoted, and the mark doubled",
        );
    }
    if cell.contains('\n') {
        return Err("a line break in a field that is not quoted");
    }
    Ok((cell.to_owned(), after))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_are_told_apart_and_unquoted() {
        for (record, fields) in [
            ("", &[""][..]),
            (",", &["", ""]),
            ("a,b,", &["a", "b", ""]),
            ("\"a,b\",c", &["a,b", "c"]),
            ("\"say \"\"hi\"\"\",\"\"", &["say \"hi\"", ""]),
            ("\"two\nlines\", b ", &["two\nlines", " b "]),
        ] {
            assert_eq!(
                cells(record, ',').as_deref(),
                Ok(&fields.iter().map(|f| (*f).to_owned()).collect::<Vec<_>>()[..])
            );
        }
        assert_eq!(cells("a;\"b;c\";d,e", ';').expect("fields"), ["a", "b;c", "d,e"]);
    }

    #[test]
    fn what_is_loose_is_refused() {
        for record in ["a\"b,c", "a, \"b\"", "\"a\"b,c", "\"a", "\"a\"\"", "a\nb", "\"a\"\n\"b\"", "x\"y,\"z"]
        {
            assert!(cells(record, ',').is_err(), "{record:?}");
        }
    }

    proptest! {
        #[test]
        fn what_a_writer_has_written_is_read(fields in proptest::collection::vec("[ab,;\"\n\té ]{0,6}", 1..6)) {
            for delimiter in [b',', b';', b'\t'] {
                let mut writer = csv::WriterBuilder::new().delimiter(delimiter).from_writer(Vec::new());
                writer.write_record(&fields).expect("written");
                let text = String::from_utf8(writer.into_inner().expect("written")).expect("UTF-8");
                let record = text.strip_suffix('\n').expect("a line");
                prop_assert_eq!(cells(record, char::from(delimiter)).expect("fields"), fields.clone());
            }
        }
    }
}
