// The figures of a day by DuckDB, one thread, on its own native table.
//
//   node rollup_duckdb.js MODULES FILE load CSV     makes the database FILE from the rows of CSV
//   node rollup_duckdb.js MODULES FILE figures SQL  prints the rows of the query in the file SQL
//   node rollup_duckdb.js MODULES FILE time SQL     its milliseconds, the second time that it runs
'use strict';
const fs = require('fs');
const path = require('path');

const [modules, file, what, argument] = process.argv.slice(2);
const { DuckDBInstance } = require(path.join(modules, 'node_modules', '@duckdb', 'node-api'));

async function main() {
  const instance = await DuckDBInstance.create(file, { threads: '1', memory_limit: '6GB' });
  const connection = await instance.connect();
  if (what === 'load') {
    await connection.run(`CREATE TABLE events AS SELECT * FROM read_csv('${argument}', header = false,
      columns = {event_time: 'TIMESTAMP', user_id: 'VARCHAR', event: 'VARCHAR', event_id: 'UUID', page_url: 'VARCHAR', extra: 'VARCHAR'})`);
    await connection.run('CHECKPOINT');
    return;
  }
  const query = fs.readFileSync(argument, 'utf8');
  const rows = (await connection.runAndReadAll(query)).getRows();
  if (what === 'figures') {
    for (const row of rows) console.log(row.map((value) => (value === null ? '' : String(value))).join('|'));
    return;
  }
  const begun = process.hrtime.bigint();
  (await connection.runAndReadAll(query)).getRows();
  console.log(Number(process.hrtime.bigint() - begun) / 1e6);
}

main().catch((error) => {
  console.error(String(error));
  process.exit(1);
});
