-- name: set_store
-- Sets a store's account and weight. The counter is scaled with the weight, so the virtual time
-- (counter / weight) and the order in the queue stay the same.
INSERT INTO stores (instance_id, account_id, weight, configured_at)
VALUES ($1, $2, coalesce($3::float8, 1), clock_timestamp())
ON CONFLICT (instance_id) DO UPDATE
   SET account_id = CASE WHEN $4 THEN $2 ELSE stores.account_id END,
       weight = coalesce($3::float8, stores.weight),
       served_nanousd =
           stores.served_nanousd * (coalesce($3::float8, stores.weight) / stores.weight),
       configured_at = clock_timestamp()
RETURNING account_id, weight;

-- name: old_weight
-- Returns the store's weight before the change, and locks the row.
SELECT weight FROM stores WHERE instance_id = $1 FOR UPDATE;

-- name: scale_own_account
-- Scales the counter of a store that is its own account.
UPDATE accounts SET served_nanousd = served_nanousd * $2::float8 WHERE account_id = $1;

-- name: set_account
-- Sets an account's weight and scales its counter with it.
INSERT INTO accounts (account_id, weight) VALUES ($1, $2)
ON CONFLICT (account_id) DO UPDATE
   SET weight = $2, served_nanousd = accounts.served_nanousd * ($2 / accounts.weight);

-- name: list
-- Returns every store that was ever charged or configured.
SELECT store.instance_id AS store, store.account_id AS account, store.weight,
       account.weight AS account_weight, store.served_nanousd::float8 / 1e9 AS served_usd,
       store.mean_cost_nanousd::float8 / 1e9 AS mean_cost_usd,
       store.settled_jobs
  FROM stores AS store LEFT JOIN accounts AS account USING (account_id) ORDER BY store.instance_id;

-- name: exists
-- Returns whether a store is known: it has or had a key, is configured, or has a job.
SELECT EXISTS (SELECT 1 FROM api_keys WHERE instance_id = $1 AND scope = 'store')
    OR EXISTS (SELECT 1 FROM stores WHERE instance_id = $1)
    OR EXISTS (SELECT 1 FROM blog_generations WHERE instance_id = $1);
