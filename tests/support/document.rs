//! The OpenAPI document, as tests walk through it.

use serde_json::{Value, json};

/// The served document.
pub struct Document(pub Value);

/// One operation of it.
#[derive(Clone, Debug)]
pub struct Operation {
    /// In capitals.
    pub method: String,
    pub path: String,
    pub value: Value,
}

impl Operation {
    /// `GET /api/backup`.
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// Parameters in the path, the query or the headers.
    pub fn parameters(&self, place: &str) -> Vec<&Value> {
        self.value["parameters"].as_array().into_iter().flatten().filter(|p| p["in"] == place).collect()
    }

    /// What is said of a JSON body: schema and example.
    pub fn json_body(&self) -> Option<&Value> {
        self.value["requestBody"]["content"].get("application/json")
    }

    /// The path with this in the place of its placeholders.
    pub fn path_of(&self, object: &str) -> String {
        let mut path = self.path.clone();
        while let (Some(begin), Some(end)) = (path.find('{'), path.find('}')) {
            path.replace_range(begin..=end, object);
        }
        path
    }

    pub fn has_placeholder(&self) -> bool {
        self.path.contains('{')
    }
}

impl Document {
    pub fn served() -> Self {
        Self(serde_json::to_value(holdfast::http::openapi()).unwrap())
    }

    pub fn operations(&self) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, value) in item.as_object().unwrap() {
                if ["get", "put", "post", "delete", "patch", "head", "options", "trace"].contains(&method.as_str()) {
                    let (method, path) = (method.to_uppercase(), path.clone());
                    operations.push(Operation { method, path, value: value.clone() });
                }
            }
        }
        operations
    }

    pub fn operation(&self, name: &str) -> Option<Operation> {
        self.operations().into_iter().find(|operation| operation.name() == name)
    }

    /// A schema without references and without the possibility of null.
    pub fn resolved(&self, schema: &Value) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let pointer = reference.strip_prefix('#').unwrap();
            return self.resolved(self.0.pointer(pointer).unwrap_or_else(|| panic!("{reference} leads nowhere")));
        }
        for word in ["oneOf", "anyOf", "allOf"] {
            if let Some(variants) = schema[word].as_array() {
                let some: Vec<&Value> = variants.iter().filter(|variant| variant["type"] != "null").collect();
                if let [one] = some[..] {
                    return self.resolved(one);
                }
            }
        }
        schema.clone()
    }

    /// The JSON types that a resolved schema allows, without null; none when it says nothing of them.
    pub fn types(schema: &Value) -> Vec<String> {
        let types = match &schema["type"] {
            Value::Array(types) => types.clone(),
            Value::Null => Vec::new(),
            one => vec![one.clone()],
        };
        types.iter().filter_map(Value::as_str).filter(|name| *name != "null").map(str::to_owned).collect()
    }

    /// Name, schema, and whether it must be there, of every property of an object.
    pub fn properties(&self, schema: &Value) -> Vec<(String, Value, bool)> {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties
            .map(|(name, schema)| (name.clone(), self.resolved(schema), required.contains(&json!(name))))
            .collect()
    }
}
