INSERT INTO customers (email, name, home, tags, profile, credit, created_at)
SELECT
    format('%s.%s.%s@example.%s', lower(first), lower(translate(last, ' ''', '-')), n, (ARRAY['com', 'org', 'net'])[1 + n % 3]),
    first || ' ' || last,
    CASE WHEN n % 11 > 0 THEN
        ROW(format('%s %s', 1 + n % 180, (ARRAY['High Street', 'Rue de l''Église', 'Lange Straße', 'Calle 9, "B"'])[1 + n % 4]),
            (ARRAY['London', 'Nantes', 'Köln', 'Sevilla', 'Łódź'])[1 + n % 5],
            substr(h, 1, 5), (ARRAY['GB', 'FR', 'DE', 'ES', 'PL'])[1 + n % 5])::address
    END,
    CASE n % 4 WHEN 0 THEN '{}' WHEN 1 THEN ARRAY['vip'] WHEN 2 THEN ARRAY['new', 'two words', 'comma,inside'] ELSE ARRAY['NULL', NULL, ''] END,
    jsonb_build_object('newsletter', n % 3 = 0, 'score', n % 100, 'city', jsonb_build_array(n, h), 'quote', '"\'),
    (n % 1000) / 4.0,
    '2024-01-01Z'::timestamptz + n * interval '3 hours'
FROM generate_series(1, 500 + 100 * current_setting('holdfast_demo.seed')::integer) n,
    LATERAL (SELECT md5(current_setting('holdfast_demo.seed') || ':' || n)) AS hash (h),
    LATERAL (SELECT
        (ARRAY['Ada', 'Grace', 'Élodie', 'Jürgen', 'Zoë', 'Mateo', 'Łucja', '美咲'])[1 + get_byte(decode(h, 'hex'), 0) % 8],
        (ARRAY['Lovelace', 'O''Brien', 'Núñez', 'van der Berg', 'Smith', 'Kowalska', 'Müller'])[1 + get_byte(decode(h, 'hex'), 1) % 7]
    ) AS person (first, last);
UPDATE customers SET referred_by = 1000 + (id - 1000) / 3 WHERE id % 5 = 0;

INSERT INTO products (sku, name, price, weight_kg, size_mm, keeps_at, on_sale, attributes)
SELECT format('SKU-%s-%s', upper(substr(h, 1, 6)), n),
    format('%s %s', (ARRAY['Oak', 'Steel', 'Glass', 'Linen'])[1 + n % 4], (ARRAY['table', 'lamp', 'bowl', 'chair', 'shelf 19" rack'])[1 + n % 5]),
    100 + n * 37 % 90000, 0.1 + n % 40, ARRAY[n, n * 2, NULL], temperature_range(-n, n + 0.5),
    datemultirange(daterange('2025-01-01', '2025-01-08'), daterange('2025-07-01', NULL)),
    jsonb_build_object('colour', substr(h, 1, 6), 'parts', n % 9)
FROM generate_series(1, 80) n, LATERAL (SELECT md5('product ' || current_setting('holdfast_demo.seed') || n)) AS hash (h);
INSERT INTO price_periods
SELECT p.id, daterange(date '2025-01-01' + 90 * q, date '2025-01-01' + 90 * (q + 1)), p.price + 10 * q
FROM products p, generate_series(0, 3) q;

INSERT INTO orders (customer_id, status, total, note, placed_at)
SELECT c.id, (enum_range(NULL::order_status))[1 + (c.id + k) % 7], ROW(0, 'EUR')::"Money Amount",
    CASE (c.id + k) % 3 WHEN 0 THEN E'leave at the door,\nring twice,\twait' WHEN 1 THEN 'it says "C:\new\table\." and \N inside' ELSE 'for O''Brien; third floor; -- not left' END,
    '2025-01-01Z'::timestamptz + ((c.id * 7 + k * 13) % 8000) * interval '1 hour'
FROM customers c, generate_series(1, 3) k WHERE c.id % 4 < 3;
INSERT INTO "Order Items" (order_id, "Line No", product_id, "Quantity", "Unit Price")
SELECT o.id, l, p.id, 1 + (o.id + l) % 5, p.price
FROM orders o, generate_series(1, 2) l, products p WHERE p.id = 1 + (o.id * 3 + l) % 80;
UPDATE orders o SET total = ROW(s.sum, 'EUR')::"Money Amount"
FROM (SELECT order_id, sum(line_total)::bigint FROM "Order Items" GROUP BY order_id) s WHERE s.order_id = o.id;
UPDATE customers c SET latest_order = o.id
FROM (SELECT DISTINCT ON (customer_id) customer_id, id FROM orders ORDER BY customer_id, placed_at DESC, id) o WHERE o.customer_id = c.id;
-- Photos (and the notes above) make all rows about as long: PostgreSQL then loads them back in the order in which they were dumped, without filling
-- gaps in earlier pages, and dumps of before and after can be compared as text.
UPDATE customers c SET photo = substr(decode(repeat(md5(email), 40), 'hex'), 1, 620 - pg_column_size(c.*));
INSERT INTO invoices (order_id, due, amount, paid_at)
SELECT id, (placed_at AT TIME ZONE 'UTC')::date + 30, total, CASE WHEN status > 'paid' THEN placed_at + interval '36 hours' END
FROM orders WHERE status >= 'paid' ORDER BY id;
INSERT INTO shipments (order_id, carrier, tracking, sender_ip, shipped_at)
SELECT id, (ARRAY['Post', 'Hermes & Söhne', 'UPS'])[1 + id % 3], md5('track ' || id)::uuid, '10.0.0.0'::inet + id, placed_at + interval '20 hours'
FROM orders WHERE status IN ('shipped', 'delivered') ORDER BY id;

INSERT INTO employees (id, name, manager_id, salary)
SELECT n, 'Employee ' || n, CASE WHEN n > 1 THEN n / 2 END, 300000 + n * 1700 FROM generate_series(40, 1, -1) n;
ALTER SEQUENCE employees_id_seq RESTART 41;

INSERT INTO events (kind, at, detail)
SELECT (ARRAY['login', 'logout', 'search', 'purchase', 'error'])[1 + n % 5],
    '2023-12-25Z'::timestamptz + n * interval '5 hours',
    jsonb_build_object('request', md5('event ' || n), 'ok', n % 17 > 0, 'path', format('/items/%s?q="%s"', n % 80, n))
FROM generate_series(1, 3000 + 500 * current_setting('holdfast_demo.seed')::integer) n;

INSERT INTO notes (body, written_at) SELECT 'General note ' || n, '2025-03-01Z'::timestamptz + n * interval '1 hour' FROM generate_series(1, 20) n;
INSERT INTO customer_notes (body, written_at, customer_id)
SELECT 'Called about order; said: "later"', created_at, id FROM customers WHERE id % 50 = 0;

INSERT INTO documents (customer_id, title, owner, content)
SELECT id, format('contract-%s.pdf', id), CASE WHEN id % 2 = 0 THEN 'hf_demo_app' ELSE 'hf_demo_readonly' END,
    decode(repeat(md5('document ' || id), 40), 'hex')
FROM customers WHERE id % 12 = 0;
INSERT INTO sessions SELECT md5('session ' || id)::uuid, id, '2030-01-01Z' FROM customers WHERE id % 20 = 0;
INSERT INTO "Nothing" DEFAULT VALUES;
INSERT INTO "Nothing" DEFAULT VALUES;

INSERT INTO "Ünïcode" VALUES ('straße', 'ß'), ('emoji', '🦀 👩‍🚀'), ('composed', 'é'), ('decomposed', E'e\u0301'), ('right to left', 'שלום'), ('ключ', NULL);
INSERT INTO "quo""te" VALUES (1, 'SELECT 1;', 'it''s', '\'), (2, '$$', '; DROP TABLE customers; --', '\\'), (3, NULL, '''', E'\n\\.\n');

INSERT INTO odd_values (id, words, ratio, exact, day, at, span) VALUES
    (1, NULL, 'NaN', 'NaN', '0044-03-15 BC', '-infinity', '-1 year 2 mons -3 days 04:05:06.789'),
    (2, '', 'Infinity', 'Infinity', 'infinity', 'infinity', 'P1Y'),
    (3, '\N', '-Infinity', '-Infinity', '-infinity', '4713-01-01 00:00:00 BC', '00:00:00.000001'),
    (4, E'tab\tnewline\nreturn\rbell\x07backslash\\', '-0', 0.000, '5874897-12-31', '2024-02-29 23:59:59.999999', '178000000 years'),
    (5, E'\\.', 5e-324, 1e-1000, '0001-01-01', '0001-01-01 00:00:00 BC', '-00:00:01'),
    (6, '''"$1$$%s{}', 1.7976931348623157e308, 12345678901234567890.123456789012345678901234567890, '2025-01-01', NULL, NULL),
    (7, repeat('long ', 20000), 0.1, -0.1, '1582-10-10', '1900-01-01', '1 mon');
UPDATE odd_values SET
    bytes = decode(md5(id::text), 'hex') || '\x00ff5c5c27'::bytea,
    list = CASE WHEN id % 2 = 0 THEN ARRAY['NULL', NULL, '{}', '"', '\', 'a,b'] ELSE '{}' END,
    grid = '[0:1][-1:0]={{1,NULL},{3,4}}',
    document = '{"n": 1.10, "u": "\u00e9\\", "deep": [[], {}, null, true]}',
    source = '{"same" : 1,  "same":2 }',
    numbers = CASE id WHEN 1 THEN 'empty' WHEN 2 THEN '(,)' ELSE int8range(id, NULL) END,
    bits = repeat('10', id)::bit varying, network = '10.1.0.0/16', place = point(id, 'NaN'),
    vector = to_tsvector('simple', 'it''s a fat\cat'), letter = chr(64 + id)::"char";

-- What is deferred is checked now: a table with waiting triggers cannot be altered.
SET CONSTRAINTS ALL IMMEDIATE;
