//! The header, from the WIT package and the constants of `pacos_plugin::native`.

use std::{
    collections::BTreeSet,
    fmt::Write,
    mem::{offset_of, size_of},
    path::Path,
};

use pacos_plugin::native::{
    ABI_MAJOR, ABI_MINOR, Buffer, Bytes, HostTable, MAGIC, PluginTable, Status,
};
use wit_parser::{Docs, Resolve, Type, TypeDefKind, TypeId};

/// The whole header, and the names of the records that it reads and writes.
pub fn header() -> (String, Vec<String>) {
    let mut resolve = Resolve::default();
    let contract = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("wit")
        .join(pacos_plugin::CONTRACT);
    resolve.push_dir(contract).unwrap();
    let opening = include_str!("opening.h")
        .replace("{{contract}}", pacos_plugin::CONTRACT)
        .replace("{{constants}}", &constants(&resolve))
        .replace("{{layout}}", &layout());
    let mut records = Records {
        resolve: &resolve,
        done: BTreeSet::new(),
        named: Vec::new(),
        text: String::new(),
    };
    for (_, interface) in &resolve.interfaces {
        for id in interface.types.values() {
            records.define(&Type::Id(*id));
        }
        for function in interface.functions.values() {
            for parameter in &function.params {
                records.define(&parameter.ty);
            }
            // What a call fails with has a status of its own; what it brings is the result.
            if let Some(Type::Id(id)) = function.result
                && let TypeDefKind::Result(result) = &resolve.types[id].kind
            {
                if let Some(ok) = &result.ok {
                    records.define(ok);
                }
            } else if let Some(result) = &function.result {
                records.define(result);
            }
        }
    }
    let text = opening + &records.text + include_str!("closing.h");
    (text, records.named)
}

fn constants(resolve: &Resolve) -> String {
    let mut text = String::new();
    let bytes = MAGIC.map(|byte| format!("'{}'", byte as char)).join(", ");
    writeln!(text, "#define PACOS_MAGIC {{{bytes}}}").unwrap();
    writeln!(text, "#define PACOS_ABI_MAJOR {ABI_MAJOR}").unwrap();
    writeln!(text, "#define PACOS_ABI_MINOR {ABI_MINOR}\n").unwrap();
    for stage in ["generator", "filter", "evaluator"] {
        let found = resolve
            .interfaces
            .iter()
            .any(|(_, i)| i.name.as_deref() == Some(stage));
        assert!(found, "the contract has no interface `{stage}`");
        let (name, version) = (stage.to_uppercase(), pacos_plugin::CONTRACT);
        writeln!(
            text,
            "#define PACOS_CONTRACT_{name} \"pacos:plugin/{stage}@{version}\""
        )
        .unwrap();
    }
    let source = include_str!("../../src/native.rs");
    text += "\n/* What a call came to. */\n";
    for status in (0..).map_while(Status::from_number) {
        let name = format!("{status:?}").to_uppercase();
        let docs = doc_before(source, &format!("{status:?} = {},", status as i32));
        writeln!(text, "/* {docs} */").unwrap();
        writeln!(text, "#define PACOS_STATUS_{name} {}", status as i32).unwrap();
    }
    for (module, prefix, title) in [
        ("function", "PACOS_FUNCTION", "Functions of a plugin"),
        ("host_function", "PACOS_HOST", "Functions of the host"),
    ] {
        writeln!(text, "\n/* {title}: arguments to result. */").unwrap();
        let start = source.find(&format!("pub mod {module} {{")).unwrap();
        let body = &source[start..];
        let body = &body[..body.find("\n}").unwrap()];
        for line in body.lines() {
            let Some(constant) = line.trim().strip_prefix("pub const ") else {
                continue;
            };
            let (name, number) = constant.split_once(": u32 = ").unwrap();
            let docs = doc_before(body, line.trim());
            writeln!(text, "/* {docs} */").unwrap();
            writeln!(
                text,
                "#define {prefix}_{name} {}",
                number.trim_end_matches(';')
            )
            .unwrap();
        }
    }
    text
}

/// The doc comment above a line of Rust.
fn doc_before(source: &str, line: &str) -> String {
    let at = source.find(line).unwrap();
    let above = source[..at].lines().rev().skip(1);
    let mut docs: Vec<_> = above.map_while(|l| l.trim().strip_prefix("/// ")).collect();
    docs.reverse();
    docs.join(" ").replace(['[', ']'], "")
}

/// Assertions that C lays the tables out as Rust does, for machines of 64 bits.
fn layout() -> String {
    let mut text = String::from("#if UINTPTR_MAX == UINT64_MAX\n");
    let mut assert = |expression: String, value: usize| {
        writeln!(
            text,
            "PACOS_ASSERT({expression} == {value}, \"{expression}\");"
        )
        .unwrap();
    };
    macro_rules! table {
        ($rust:ty, $c:literal, $($field:ident),*) => {
            assert(format!("sizeof({})", $c), size_of::<$rust>());
            $(assert(format!("offsetof({}, {})", $c, stringify!($field)), offset_of!($rust, $field));)*
        };
    }
    table!(Bytes, "pacos_bytes", ptr, len);
    table!(Buffer, "pacos_buffer", ptr, len, capacity, release);
    table!(HostTable, "pacos_host_table", size, context, call);
    table!(
        PluginTable,
        "pacos_plugin_table",
        magic,
        abi_major,
        abi_minor,
        size,
        contract,
        create,
        call,
        destroy
    );
    format!(
        "#ifdef __cplusplus\n#define PACOS_ASSERT static_assert\n#else\n\
         #define PACOS_ASSERT _Static_assert\n#endif\n{text}#endif\n"
    )
}

struct Records<'a> {
    resolve: &'a Resolve,
    done: BTreeSet<String>,
    named: Vec<String>,
    text: String,
}

impl Records<'_> {
    /// The name of a type in C, without its prefix, and whether values of it are small enough to
    /// be passed by value.
    fn name(&self, ty: &Type) -> (String, bool) {
        let name = |text: &str| (text.to_owned(), true);
        match ty {
            Type::Bool => name("bool"),
            Type::U8 => name("u8"),
            Type::U16 => name("u16"),
            Type::U32 => name("u32"),
            Type::U64 => name("u64"),
            Type::F64 => name("f64"),
            Type::String => name("string"),
            Type::Id(id) => self.name_of(*id),
            other => panic!("the header has no {other:?}; teach plugin-api/tests/header"),
        }
    }

    fn name_of(&self, id: TypeId) -> (String, bool) {
        let def = &self.resolve.types[id];
        let inner = |prefix: &str, ty: &Type| (format!("{prefix}_{}", self.name(ty).0), false);
        match &def.kind {
            TypeDefKind::Type(ty) => self.name(ty),
            TypeDefKind::List(ty) => inner("list", ty),
            TypeDefKind::Option(ty) => inner("option", ty),
            TypeDefKind::Result(result) => {
                let part = |ty: &Option<Type>| ty.map_or("unit".into(), |ty| self.name(&ty).0);
                (
                    format!("result_{}_{}", part(&result.ok), part(&result.err)),
                    false,
                )
            }
            kind => (
                def.name.as_deref().unwrap().replace('-', "_"),
                matches!(kind, TypeDefKind::Enum(_)),
            ),
        }
    }

    fn c_type(&self, ty: &Type) -> String {
        match self.name(ty).0.as_str() {
            "bool" => "bool".into(),
            "u8" => "uint8_t".into(),
            "u16" => "uint16_t".into(),
            "u32" => "uint32_t".into(),
            "u64" => "uint64_t".into(),
            "f64" => "double".into(),
            name => format!("pacos_{name}"),
        }
    }

    fn read(&self, ty: &Type, place: &str) -> String {
        format!("pacos_read_{}(r, &{place});", self.name(ty).0)
    }

    fn write(&self, ty: &Type, place: &str) -> String {
        let (name, by_value) = self.name(ty);
        let address = if by_value { "" } else { "&" };
        format!("pacos_write_{name}(w, {address}{place});")
    }

    /// Writes the type and its two functions, after those that it consists of.
    fn define(&mut self, ty: &Type) {
        let Type::Id(id) = ty else { return };
        let def = &self.resolve.types[*id];
        let (name, _) = self.name_of(*id);
        if let TypeDefKind::Type(inner) = &def.kind {
            return self.define(&inner.clone());
        }
        if self.done.contains(&name) {
            return;
        }
        match &def.kind {
            TypeDefKind::Record(record) => {
                for field in &record.fields {
                    self.define(&field.ty);
                }
                let (mut fields, mut reads, mut writes) = Default::default();
                for field in &record.fields {
                    let c = field.name.replace('-', "_");
                    comment(&mut fields, "    ", &field.docs);
                    line(&mut fields, &format!("{} {c};", self.c_type(&field.ty)));
                    line(&mut reads, &self.read(&field.ty, &format!("value->{c}")));
                    line(&mut writes, &self.write(&field.ty, &format!("value->{c}")));
                }
                self.emit(&name, &def.docs, &fields, &reads, &writes);
            }
            TypeDefKind::Variant(variant) => {
                for case in &variant.cases {
                    case.ty.iter().for_each(|ty| self.define(ty));
                }
                let (mut tags, mut fields) = (String::new(), String::new());
                let mut reads = String::from(
                    "    pacos_read_tag(r, &value->tag);\n    switch (value->tag) {\n",
                );
                let mut writes = String::from(
                    "    pacos_write_u32(w, value->tag);\n    switch (value->tag) {\n",
                );
                for (number, case) in variant.cases.iter().enumerate() {
                    let c = case.name.replace('-', "_");
                    let tag = format!("PACOS_{}_{}", name.to_uppercase(), c.to_uppercase());
                    comment(&mut tags, "", &case.docs);
                    writeln!(tags, "#define {tag} {number}u").unwrap();
                    writeln!(reads, "    case {tag}:").unwrap();
                    if let Some(ty) = &case.ty {
                        writeln!(fields, "        {} {c};", self.c_type(ty)).unwrap();
                        let place = format!("value->as.{c}");
                        writeln!(reads, "        {}", self.read(ty, &place)).unwrap();
                        writeln!(writes, "    case {tag}:").unwrap();
                        writeln!(writes, "        {}", self.write(ty, &place)).unwrap();
                        line(&mut writes, "    break;");
                    }
                    line(&mut reads, "    break;");
                }
                line(&mut reads, "default:");
                line(&mut reads, "    pacos_fail(r);");
                line(&mut reads, "}");
                line(&mut writes, "default:");
                line(&mut writes, "    break;");
                line(&mut writes, "}");
                self.text += &tags;
                let fields = format!("    uint8_t tag;\n    union {{\n{fields}    }} as;\n");
                self.emit(&name, &def.docs, &fields, &reads, &writes);
            }
            TypeDefKind::Enum(cases) => {
                comment(&mut self.text, "", &def.docs);
                for (number, case) in cases.cases.iter().enumerate() {
                    comment(&mut self.text, "", &case.docs);
                    let tag = format!("PACOS_{name}_{}", case.name.replace('-', "_"));
                    writeln!(self.text, "#define {} {number}u", tag.to_uppercase()).unwrap();
                }
                let count = cases.cases.len();
                write!(
                    self.text,
                    "typedef uint8_t pacos_{name};\n\n\
                     static inline void pacos_read_{name}(pacos_reader *r, pacos_{name} *value)\n{{\n    \
                     pacos_read_tag(r, value);\n    if (*value >= {count}u)\n        pacos_fail(r);\n}}\n\n\
                     static inline void pacos_write_{name}(pacos_writer *w, pacos_{name} value)\n{{\n    \
                     pacos_write_u32(w, value);\n}}\n\n"
                )
                .unwrap();
                self.done.insert(name);
            }
            TypeDefKind::List(item) => {
                self.define(item);
                let fields = format!("    {} *items;\n    size_t len;\n", self.c_type(item));
                let reads = format!(
                    "    size_t i;\n    value->items = ({} *)pacos_read_items(r, sizeof *value->items, \
                     &value->len);\n    for (i = 0; i < value->len; i++)\n        {}\n",
                    self.c_type(item),
                    self.read(item, "value->items[i]")
                );
                let writes = format!(
                    "    size_t i;\n    pacos_write_u64(w, value->len);\n    for (i = 0; i < value->len; \
                     i++)\n        {}\n",
                    self.write(item, "value->items[i]")
                );
                self.emit(&name, &Docs::default(), &fields, &reads, &writes);
            }
            TypeDefKind::Option(item) => {
                self.define(item);
                let fields = format!("    bool present;\n    {} value;\n", self.c_type(item));
                let reads = format!(
                    "    pacos_read_bool(r, &value->present);\n    if (value->present)\n        {}\n",
                    self.read(item, "value->value")
                );
                let writes = format!(
                    "    pacos_write_bool(w, value->present);\n    if (value->present)\n        {}\n",
                    self.write(item, "value->value")
                );
                self.emit(&name, &Docs::default(), &fields, &reads, &writes);
            }
            TypeDefKind::Result(result) => {
                let (Some(ok), Some(err)) = (result.ok, result.err) else {
                    return;
                };
                self.define(&ok);
                self.define(&err);
                let fields = format!(
                    "    bool failed;\n    union {{\n        {} ok;\n        {} error;\n    }} as;\n",
                    self.c_type(&ok),
                    self.c_type(&err)
                );
                let reads = format!(
                    "    pacos_read_bool(r, &value->failed);\n    if (value->failed)\n        {}\n    \
                     else\n        {}\n",
                    self.read(&err, "value->as.error"),
                    self.read(&ok, "value->as.ok")
                );
                let writes = format!(
                    "    pacos_write_bool(w, value->failed);\n    if (value->failed)\n        {}\n    \
                     else\n        {}\n",
                    self.write(&err, "value->as.error"),
                    self.write(&ok, "value->as.ok")
                );
                self.emit(&name, &Docs::default(), &fields, &reads, &writes);
            }
            other => panic!("the header has no {other:?}; teach plugin-api/tests/header"),
        }
    }

    fn emit(&mut self, name: &str, docs: &Docs, fields: &str, reads: &str, writes: &str) {
        comment(&mut self.text, "", docs);
        write!(
            self.text,
            "typedef struct pacos_{name} {{\n{fields}}} pacos_{name};\n\n\
             static inline void pacos_read_{name}(pacos_reader *r, pacos_{name} *value)\n{{\n    \
             memset(value, 0, sizeof *value);\n{reads}}}\n\n\
             static inline void pacos_write_{name}(pacos_writer *w, const pacos_{name} *value)\n\
             {{\n{writes}}}\n\n"
        )
        .unwrap();
        self.done.insert(name.to_owned());
        self.named.push(name.to_owned());
    }
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "    {line}").unwrap();
}

fn comment(text: &mut String, indent: &str, docs: &Docs) {
    if let Some(docs) = &docs.contents {
        let lines: Vec<_> = docs.trim().lines().map(str::trim).collect();
        let between = format!("\n{indent} * ");
        writeln!(text, "{indent}/* {} */", lines.join(&between)).unwrap();
    }
}
