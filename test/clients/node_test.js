// An app in JavaScript: events and orders through the package pg, as its manual shows it, nothing else.
//
//     node node_test.js      PGHOST, PGPORT, PGUSER and PGDATABASE say where, NODE_PATH where pg is
'use strict';
const { isDeepStrictEqual } = require('util');
const { Client, Pool } = require('pg');

const noon = new Date('2025-03-01T12:00:00.123+08:00');
const user = 'node 用户 🛒';
const eventSql = 'INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra) VALUES ($1, $2, $3, $4, $5, $6)';
const lineSql =
	'INSERT INTO ecstats.order_lines (order_id, line_no, order_time, user_id, product_id, region, quantity, amount, paid_time) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)';
let failed = 0;

function ok(good, text, got) {
	console.log(`${good ? 'ok' : 'not ok'} - clients: node pg: ${text}`);
	if (!good) {
		failed = 1;
		console.log('#   got: ' + (got instanceof Error ? got.stack : JSON.stringify(got)).replace(/\n/g, '\n#   '));
	}
}

function uuid(n) {
	return '00000000-0000-4000-9000-' + String(n).padStart(12, '0');
}

function event(n, change = {}) {
	return Object.values({ event_time: noon, user_id: user, event: 'view_item', event_id: uuid(n), page_url: '/p?q=$1', extra: { n, 词: '😀' }, ...change });
}

// errorOf gives the error that a statement ends with.
async function errorOf(client, query, values) {
	try {
		await client.query(query, values);
	} catch (error) {
		return error;
	}
	return null;
}

async function count(client, where, values) {
	return Number((await client.query('SELECT count(*) FROM ecstats.events WHERE ' + where, values)).rows[0].count);
}

async function inTransactions(client) {
	await client.query('BEGIN');
	await client.query(eventSql, event(1));
	await client.query(lineSql, ['n1', 1, noon, user, 'p1', '上海', 2, '19.90', noon]);
	await client.query('ROLLBACK');
	ok((await count(client, 'user_id = $1', [user])) === 0, 'a rollback leaves nothing');
	await client.query('BEGIN');
	await client.query(eventSql, event(1));
	await client.query(lineSql, ['n1', 1, noon, user, 'p1', '上海', 2, '19.90', noon]);
	await client.query('COMMIT');
	let got = (await client.query('SELECT event_time, event, event_id, page_url, extra FROM ecstats.events WHERE user_id = $1', [user])).rows;
	ok(isDeepStrictEqual(got, [{ event_time: noon, event: 'view_item', event_id: uuid(1), page_url: '/p?q=$1', extra: { n: 1, 词: '😀' } }]), 'an event reads back as it was written', got);
	got = (await client.query("SELECT order_time, user_id, region, channel, quantity, amount, status, paid_time, extra FROM ecstats.order_lines WHERE order_id = 'n1'")).rows;
	ok(
		isDeepStrictEqual(got, [{ order_time: noon, user_id: user, region: '上海', channel: 'unknown', quantity: 2, amount: '19.90', status: 'placed', paid_time: noon, extra: {} }]),
		'an order line reads back, with its defaults', got);
}

async function errors(client, mode) {
	let error = await errorOf(client, eventSql, event(2, { event: 'Bad Name' }));
	ok(
		error && isDeepStrictEqual([error.code, error.schema, error.table, error.column, error.constraint], ['23514', 'ecstats', 'events', 'event', 'events_valid']),
		mode + ': SQLSTATE, table, column and constraint are there', error);
	ok(error && error.detail === 'Value: "Bad Name".', mode + ': the value is in DETAIL', error);
	ok(error && /^Event names are/.test(error.hint), mode + ': what to do is in HINT', error);
	if (mode === 'in a transaction') {
		error = await errorOf(client, 'SELECT 1');
		ok(error && error.code === '25P02', mode + ': it is aborted, as ever', error);
		await client.query('ROLLBACK');
		await client.query('BEGIN');
	}
	error = await errorOf(client, lineSql, ['n2', 1, noon, user, 'p1', 'x', 1, -5, null]);
	ok(error && error.code === '23514' && error.column === 'amount' && error.table === 'order_lines', mode + ': a bad order line names its column', error);
	if (mode === 'in a transaction') {
		await client.query('ROLLBACK');
	}
	ok((await count(client, 'user_id = $1', [user])) === 1, mode + ': the connection works on');
}

async function many(client) {
	const columns = Array.from({ length: 100 }, (_, n) => event(n + 1));
	const sql = `INSERT INTO ecstats.events (event_time, user_id, event, event_id, page_url, extra)
		SELECT * FROM unnest($1::timestamptz[], $2::text[], $3::text[], $4::uuid[], $5::text[], $6::jsonb[]) ON CONFLICT DO NOTHING`;
	const transposed = [0, 1, 2, 3, 4, 5].map((i) => columns.map((row) => row[i]));
	let result = await client.query(sql, transposed);
	ok(result.rowCount === 99, 'ON CONFLICT DO NOTHING stores what is new', result.rowCount);
	result = await client.query(sql, transposed);
	ok(result.rowCount === 0, 'ON CONFLICT DO NOTHING drops repeats', result.rowCount);
	ok((await count(client, 'user_id = $1', [user])) === 100, 'a hundred events are there once');
}

async function prepared(client) {
	for (let n = 200; n < 220; n++) {
		await client.query({ name: 'put event', text: eventSql, values: event(n) });
	}
	const error = await errorOf(client, { name: 'put event', text: eventSql, values: event(220, { user_id: 'a\tb' }) });
	ok(error && error.code === '23514' && error.column === 'user_id' && error.detail === 'Value: "a\\x09b".', 'a prepared statement shows a bad value escaped', error);
	ok((await count(client, 'user_id = $1 AND event_id >= $2', [user, uuid(200)])) === 20, 'a prepared statement stores twenty events');
	const got = await client.query("SELECT count(*)::int AS n FROM pg_prepared_statements WHERE name = 'put event'");
	ok(got.rows[0].n === 1, 'and is prepared once', got.rows);
}

async function pooled() {
	const pool = new Pool({ max: 5 });
	await Promise.all(Array.from({ length: 50 }, (_, n) => pool.query(eventSql, event(300 + n))));
	ok((await count(pool, 'user_id = $1 AND event_id >= $2', [user, uuid(300)])) === 50, 'fifty at once through a pool');
	await pool.end();
}

async function main() {
	const client = new Client();
	await client.connect();
	await inTransactions(client);
	await client.query('BEGIN');
	await errors(client, 'in a transaction');
	await errors(client, 'autocommit');
	await many(client);
	await prepared(client);
	await client.end();
	await pooled();
}

main().then(() => process.exit(failed), (error) => {
	ok(false, 'the app ends', error);
	process.exit(1);
});
