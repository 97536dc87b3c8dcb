-- name: ingest
-- Reads jobs; cancels and retries them, which changes these columns only; sets budgets; delivers
-- webhooks; compares the hashes of keys. Creates no keys. Creates a store's first webhook secret
-- when its first webhook is signed, and changes none.
GRANT SELECT ON blog_generations, blog_steps, blog_posts, store_outlooks TO {role};
GRANT UPDATE (status, attempt, retries, blameless, not_before, intervened_at, forwarded_at,
              started_at, finished_at, error_code, error, input_tokens, output_tokens,
              reasoning_tokens, images, cost_nanousd)
   ON blog_generations TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON store_budgets TO {role};
GRANT SELECT ON store_spend TO {role};
GRANT SELECT (instance_id, mean_cost_nanousd) ON stores TO {role};
GRANT SELECT, INSERT, UPDATE ON webhook_deliveries TO {role};
GRANT SELECT, INSERT ON webhook_attempts TO {role};
GRANT SELECT, INSERT (instance_id, secret) ON webhook_secrets TO {role};
GRANT SELECT (hash, instance_id, scope, name, revoked_at, changed_at) ON api_keys TO {role};

-- name: scheduler
-- Admits, dispatches and settles jobs, saves the counters of the fair queue, enforces budgets, and
-- marks calls as in doubt.
GRANT SELECT, INSERT, UPDATE ON blog_generations, stores, accounts TO {role};
GRANT SELECT, INSERT, UPDATE, DELETE ON store_outlooks TO {role};
GRANT SELECT, UPDATE ON scheduler_leader TO {role};
GRANT SELECT ON store_budgets, store_spend TO {role};
GRANT UPDATE (warned_in, stopped_in) ON store_budgets TO {role};
GRANT SELECT, UPDATE (state, finished_at, in_doubt) ON blog_steps TO {role};

-- name: generator
-- Claims jobs, saves the results of their steps, and records provider calls.
GRANT SELECT, UPDATE ON blog_generations TO {role};
GRANT SELECT, INSERT, UPDATE ON blog_steps, blog_posts TO {role};
GRANT SELECT, INSERT, DELETE ON provider_calls TO {role};

-- name: metrics
-- Counts jobs and cost by status, to compare with the counted events.
GRANT SELECT (created_at, status, cost_nanousd) ON blog_generations TO {role};
