-- name: set_store
-- A store's account and weight. A new weight moves nobody in the line: counters stand there divided by it, so they are scaled.
INSERT INTO stores (instance_id, account_id, weight, configured_at)
VALUES ($1, $2, coalesce($3::float8, 1), clock_timestamp())
ON CONFLICT (instance_id) DO UPDATE
   SET account_id = CASE WHEN $4 THEN $2 ELSE stores.account_id END, weight = coalesce($3::float8, stores.weight),
       served_nanousd = stores.served_nanousd * (coalesce($3::float8, stores.weight) / stores.weight),
       configured_at = clock_timestamp()
RETURNING account_id, weight;

-- name: old_weight
-- What the store weighed until now.
SELECT weight FROM stores WHERE instance_id = $1 FOR UPDATE;

-- name: scale_own_account
-- The counter of a store that is an account by itself.
UPDATE accounts SET served_nanousd = served_nanousd * $2::float8 WHERE account_id = $1;

-- name: set_account
-- An account's weight, its counter scaled with it.
INSERT INTO accounts (account_id, weight) VALUES ($1, $2)
ON CONFLICT (account_id) DO UPDATE
   SET weight = $2, served_nanousd = accounts.served_nanousd * ($2 / accounts.weight);

-- name: list
-- Every store that was ever charged or set.
SELECT store.instance_id AS store, store.account_id AS account, store.weight, account.weight AS account_weight,
       store.served_nanousd::float8 / 1e9 AS served_usd, store.mean_cost_nanousd::float8 / 1e9 AS mean_cost_usd,
       store.settled_jobs
  FROM stores AS store LEFT JOIN accounts AS account USING (account_id) ORDER BY store.instance_id;

-- name: exists
-- Whether a store of this name was ever heard of: it has, or had, a key, is set, or has a job.
SELECT EXISTS (SELECT 1 FROM api_keys WHERE instance_id = $1 AND scope = 'store')
    OR EXISTS (SELECT 1 FROM stores WHERE instance_id = $1)
    OR EXISTS (SELECT 1 FROM blog_generations WHERE instance_id = $1);
