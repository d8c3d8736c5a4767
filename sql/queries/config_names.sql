-- All services that ever had a config, for the comparison with KV.
SELECT service_name FROM config_heads WHERE revision > 0;
